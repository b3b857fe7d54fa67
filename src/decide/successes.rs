//! When saves and uploads of this node succeeded last, as far as its directory and its state show it: what a process may have been
//! started too late to see.

use jiff::Timestamp;

use super::Observed;
use crate::snapshot::{SnapshotFile, Storage, Upload};

/// The time of the last success of each that is known; None when none is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Successes {
    /// When the newest snapshot was taken that was saved on this node.
    pub save: Option<Timestamp>,
    /// When the newest snapshot of the directory was taken that has gone up to the bucket in force.
    pub upload: Option<Timestamp>,
}

/// By the pass of a directory; a bucket's shows nothing of this. A time to come was noted by a clock that has been set back since.
pub fn successes(seen: &Observed, now: Timestamp) -> Successes {
    let Storage::Local { node } = &seen.storage else { return Successes::default() };
    let bucket = seen.around.bucket.as_ref().map(|bucket| bucket.storage.id());
    let saved_at = |file: &SnapshotFile| -> Option<Timestamp> {
        let manifest = &file.known.as_ref().filter(|known| known.manifest.node.as_ref() == Some(node))?.manifest;
        manifest.rest.get("time")?.parse().ok()
    };
    let uploaded_at = |file: &SnapshotFile| {
        let upload = seen.around.uploads.get(&file.name)?.get(bucket.as_ref()?)?;
        (*upload == Upload::Done).then(|| file.name.created_at(file.modified).min(file.modified))
    };
    let newest = |at: &dyn Fn(&SnapshotFile) -> Option<Timestamp>| {
        let times = seen.inventory.seen().values().filter_map(at);
        times.filter(|time| *time <= now).max()
    };
    Successes { save: newest(&saved_at), upload: newest(&uploaded_at) }
}

#[cfg(test)]
mod tests {
    use super::super::fixtures::*;
    use super::*;
    use crate::decide::BucketView;
    use crate::snapshot::{StorageId, UploadId, Uploads};

    fn saved(of: &str, ago: i64) -> SnapshotFile {
        let at = time(NOW - ago).to_string();
        of_node(of, ago).but(|file| _ = known(file).manifest.rest.insert("time".into(), at))
    }

    #[test]
    fn the_newest_that_this_node_has_saved_and_the_newest_that_has_gone_up_to_this_bucket_count() {
        // One that nobody has saved here, one of another node, one of a time to come.
        let files = [saved("cp1", 900), saved("cp1", 600), good(300), saved("cp2", 200), saved("cp1", -100)];
        let mut world = World::new(local(), 0, files.clone());
        assert_eq!(successes(&world.observed(), time(NOW)), Successes { save: Some(time(NOW - 600)), upload: None });

        let to = |id: StorageId, upload| Uploads::from([(id, upload)]);
        let begun = Upload::Begun { id: UploadId("id".into()) };
        world.bucket = Some(BucketView { storage: bucket(), records: None, beat: time(NOW) });
        world.uploads = [
            (&files[0], to(bucket().id(), Upload::Done)),
            (&files[1], to(bucket().id(), begun)),
            (&files[2], to(StorageId::remembered("another"), Upload::Done)),
            (&files[4], to(bucket().id(), Upload::Done)),
        ]
        .map(|(file, uploads)| (file.name.clone(), uploads))
        .into();
        assert_eq!(successes(&world.observed(), time(NOW)).upload, Some(time(NOW - 900)));
        world.storage = bucket();
        assert_eq!(successes(&world.observed(), time(NOW)), Successes::default());
    }
}
