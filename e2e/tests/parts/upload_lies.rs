//! A server that does not tell the truth about what it was sent, and one whose clock is another: nothing is called done that is not,
//! and without a restart it is in the end.

use anyhow::{Result, ensure};
use e2e::proxy::{Fault, On};

use crate::look::{bucket_becomes, expected, falls_ill};
use crate::uploads::{PARTS, Uploading, uploads};

/// Of no part of any file.
const WRONG: &str = "\"0123456789abcdef0123456789abcdef\"";

/// The listing of parts, in which each has an ETag that it does not have.
fn with_wrong_etags(listing: &str) -> String {
    let mut pieces = listing.split("<ETag>");
    let first = pieces.next().unwrap_or_default().to_owned();
    let rest = pieces.map(|piece| format!("<ETag>{WRONG}{}", piece.find("</ETag>").map_or("", |at| &piece[at..])));
    rest.fold(first, |listing, piece| listing + &piece)
}

#[tokio::test]
async fn a_wrong_etag_in_an_answer_makes_no_object_until_the_server_shows_the_right_one() -> Result<()> {
    let (up, name) = Uploading::with_large().await?;
    let answers = up.s3.when(up.part(&name, 2), Fault::Header("etag", WRONG));
    let listings = up.s3.when(up.object("GET", &name).query("uploadId"), Fault::rewrite(with_wrong_etags));
    let mut operator = up.setup.start().await?;
    falls_ill(&mut operator, "uploads", "completing the upload of").await?;
    ensure!(answers.hits() > 0 && uploads(&operator, "done").await? == 0);
    ensure!(up.site.bucket.keys().await?.is_empty(), "{:?}", up.site.bucket.keys().await?);
    // What the server says to have is not what was sent: it is sent again, and by the same upload.
    operator
        .until("every part to be sent again", async |_| {
            for number in 1..=PARTS {
                ensure!(up.s3.count(&up.part(&name, number)) > 1, "part {number} was sent once");
            }
            Ok(())
        })
        .await?;
    ensure!(listings.hits() > 0 && up.begun(&name) == 1);
    answers.remove();
    listings.remove();
    bucket_becomes(&mut operator, &up.site, &expected([(&name, "whole")])).await?;
    ensure!(up.begun(&name) == 1, "it was begun {} times", up.begun(&name));
    up.ends_well(operator, &name).await
}

#[tokio::test]
async fn a_clock_that_is_set_in_the_middle_of_an_upload_is_named_and_the_upload_goes_on_once_it_is_right() -> Result<()> {
    let (up, name) = Uploading::with_large().await?;
    // From its third part on, whatever changes something.
    let rule = up.s3.when(On::writes().skip(3), Fault::s3(403, "RequestTimeTooSkewed"));
    let mut operator = up.setup.start().await?;
    let words = "(403 RequestTimeTooSkewed): the clock of this machine and the server's are too far apart; set this machine's";
    falls_ill(&mut operator, "uploads", words).await?;
    ensure!(rule.hits() > 0 && uploads(&operator, "done").await? == 0 && uploads(&operator, "failed").await? > 0);
    ensure!(up.site.bucket.keys().await?.is_empty(), "{:?}", up.site.bucket.keys().await?);
    rule.remove();
    bucket_becomes(&mut operator, &up.site, &expected([(&name, "whole")])).await?;
    ensure!(up.begun(&name) == 1, "it was begun {} times", up.begun(&name));
    up.ends_well(operator, &name).await
}
