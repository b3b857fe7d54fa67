//! Tests of what the state remembers of the schedule.

use super::*;
use crate::schedule::{Attempt, Noted, Outcome};

#[tokio::test]
async fn an_attempt_of_the_schedule_is_known_after_a_restart_and_what_is_unreadable_is_set_aside() {
    let place = Place::new();
    let directory = place.open();
    let at = |text: &str| text.parse::<Timestamp>().unwrap();
    let noted = Noted { since: at("2026-11-25T10:00:00Z"), attempt: None };
    let failure = directory.note_schedule(noted).await.unwrap_err();
    assert!(failure.category == "state" && failure.message.contains("no listing has found"), "{failure:?}");
    assert_eq!(directory.noted_schedule().await.unwrap(), None);

    directory.list(&Memory::default()).await;
    directory.note_schedule(noted).await.unwrap();
    assert_eq!(place.open().noted_schedule().await.unwrap(), Some(noted));
    for outcome in Outcome::ALL {
        let attempt = Attempt { slot: at("2026-11-25T12:00:00Z"), at: at("2026-11-25T12:00:03.25Z"), outcome };
        let noted = Noted { attempt: Some(attempt), ..noted };
        directory.note_schedule(noted).await.unwrap();
        assert_eq!(place.open().noted_schedule().await.unwrap(), Some(noted));
    }
    let path = place.state("cp1").join("schedule.json");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(place.open_as("cp2").noted_schedule().await.unwrap(), None);
    for unreadable in ["", "{}", r#"{"v":2,"since":"2026-11-25T10:00:00Z"}"#, r#"{"v":1,"since":"yesterday"}"#] {
        fs::write(&path, unreadable).unwrap();
        assert_eq!(place.open().noted_schedule().await.unwrap(), None, "{unreadable}");
        assert!(!path.exists(), "{unreadable}");
    }
    let aside = fs::read_dir(place.state("cp1")).unwrap();
    assert_eq!(aside.filter(|entry| entry.as_ref().unwrap().file_name().to_str().unwrap().starts_with("schedule.json.bad-")).count(), 4);
    directory.note_schedule(noted).await.unwrap();
    assert_eq!(place.open().noted_schedule().await.unwrap(), Some(noted));
}
