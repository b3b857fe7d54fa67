//! What became of a file's uploads, as its record shows it: the only way in which the bucket's leader learns of a failure.
//!
//! In: uploads as the state of the node remembers them. Out: the annotation's JSON, storage id → `{phase, at, why}`, and
//! back. When an upload was last tried is not in it: each try would be a write.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::snapshot::{StorageId, Upload, Uploads};

/// A sentence longer than this is cut: the record is for people, the log has it whole.
const LONGEST: usize = 1000;

#[derive(Serialize, Deserialize)]
struct Shown {
    phase: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// The annotation; None when there is nothing to show. An upload that is under way is not shown.
pub fn shown(uploads: &Uploads) -> Option<String> {
    let shown: BTreeMap<String, Shown> = uploads
        .iter()
        .filter_map(|(storage, upload)| {
            let shown = match upload {
                Upload::Begun { .. } => return None,
                Upload::Done => Shown { phase: "done".into(), at: None, why: None },
                Upload::Failed { since, why, .. } => {
                    let at = Timestamp::from_second(since.as_second()).ok();
                    Shown { phase: "failed".into(), at, why: Some(why.chars().take(LONGEST).collect()) }
                }
            };
            Some((storage.to_string(), shown))
        })
        .collect();
    (!shown.is_empty()).then(|| serde_json::json!(shown).to_string())
}

/// What an annotation says; what cannot be read says nothing.
pub fn read(annotation: &str) -> Uploads {
    let shown: BTreeMap<String, Shown> = serde_json::from_str(annotation).unwrap_or_default();
    let upload = |shown: Shown| match (shown.phase.as_str(), shown.at, shown.why) {
        ("done", ..) => Some(Upload::Done),
        ("failed", Some(at), Some(why)) => Some(Upload::Failed { since: at, at, why }),
        _ => None,
    };
    shown.into_iter().filter_map(|(storage, shown)| Some((StorageId::remembered(&storage), upload(shown)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Storage, UploadId};

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn what_has_ended_is_shown_and_read_back_and_each_try_for_one_reason_shows_the_same() {
        let ids = ["a", "b", "c"].map(|bucket| Storage::s3("h", true, bucket, "").id());
        let failed = |at: i64| Upload::Failed { since: time(5), at: time(at), why: "403".into() };
        let uploads = |at| {
            let all = [Upload::Done, failed(at), Upload::Begun { id: UploadId("u".into()) }];
            ids.clone().into_iter().zip(all).collect::<Uploads>()
        };
        let text = shown(&uploads(9)).unwrap();
        assert_eq!(shown(&uploads(99)).unwrap(), text);
        let back = read(&text);
        assert_eq!(back, Uploads::from([(ids[0].clone(), Upload::Done), (ids[1].clone(), failed(5))]));
    }

    #[test]
    fn nothing_is_shown_of_nothing_and_read_of_what_is_no_annotation_of_ours() {
        assert_eq!(shown(&Uploads::new()), None);
        for text in ["", "[]", "{\"a\":{\"phase\":\"failed\"}}", "{\"a\":{\"phase\":\"later\"}}"] {
            assert_eq!(read(text), Uploads::new(), "{text}");
        }
    }
}
