//! Makes objects look older than they are: nobody can put one into a bucket that has been there for an hour.
//!
//! In: an S3 server's answers. Out: the same with each time of last change so much earlier, in headers and listings alike.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::strtime;

use super::wire::Head;

const HEADER: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// Ages the `Last-Modified` of one object.
pub(super) fn age_head(head: &mut Head, by: Duration) {
    for (name, value) in &mut head.headers {
        if name.eq_ignore_ascii_case("last-modified") {
            let then = strtime::parse(HEADER, value.trim()).and_then(|parsed| parsed.to_datetime());
            let then = then.and_then(|then| then.to_zoned(jiff::tz::TimeZone::UTC)).map(|then| then.timestamp() - by);
            if let Ok(Ok(text)) = then.map(|then| strtime::format(HEADER, &then.to_zoned(jiff::tz::TimeZone::UTC))) {
                *value = format!(" {text}");
            }
        }
    }
}

/// Ages every `<LastModified>` of a listing.
pub(super) fn age_listing(listing: &str, by: Duration) -> String {
    let (begin, end) = ("<LastModified>", "</LastModified>");
    let mut pieces = listing.split(begin);
    let mut aged = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (time, rest) = piece.split_once(end).unwrap_or((piece, ""));
        let time = time.parse::<Timestamp>().map_or_else(|_| time.to_owned(), |time| (time - by).to_string());
        aged = format!("{aged}{begin}{time}{end}{rest}");
    }
    aged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn headers_and_listings_are_so_much_older_and_otherwise_as_they_were() {
        let text = "HTTP/1.1 200 OK\r\nLast-Modified: Wed, 25 Nov 2026 00:30:00 GMT\r\nETag: \"e\"\r\n\r\n";
        let mut head = Head::read(&mut text.as_bytes()).await.unwrap().unwrap();
        age_head(&mut head, Duration::from_hours(1));
        assert_eq!(String::from_utf8(head.bytes()).unwrap(), text.replace("Wed, 25 Nov 2026 00:30", "Tue, 24 Nov 2026 23:30"));
        let listing = "<a><LastModified>2026-11-25T00:30:00.123Z</LastModified><b/><LastModified>2026-11-25T01:00:00Z</LastModified></a>";
        let aged = "<a><LastModified>2026-11-24T23:30:00.123Z</LastModified><b/><LastModified>2026-11-25T00:00:00Z</LastModified></a>";
        assert_eq!(age_listing(listing, Duration::from_hours(1)), aged);
    }
}
