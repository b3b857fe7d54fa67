//! Listing one folder of a bucket, page by page, and not one page more than it has.
//!
//! In: a prefix. Out: its direct children, and how far the listing got. An answer that is cut off, goes round in circles or is not S3
//! at all is a failure, never a shorter listing.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::Object;
use aws_smithy_runtime_api::box_error::BoxError;
use jiff::Timestamp;
use xmlparser::{ElementEnd, Token, Tokenizer};

use super::error::{Asked, Category, Place, S3Error};
use crate::snapshot::FileName;

/// Pages after which it is no folder of snapshots: a million objects.
const MAX_PAGES: usize = 1000;

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As listed, without quotes.
    pub etag: String,
    /// Bytes; never 0.
    pub size: u64,
    /// LastModified.
    pub modified: Timestamp,
}

/// What a listing found under one prefix.
#[derive(Debug, Default)]
pub struct Folder {
    /// The direct children that have the name of a snapshot file. Of two with one name, the last one.
    pub entries: BTreeMap<FileName, Entry>,
    /// How many keys were listed that do not begin with the prefix.
    pub outside: usize,
}

/// Lists the direct children of `prefix`, which is empty or ends with a slash. With an error: what was seen before it.
pub async fn folder(client: &Client, prefix: &str, place: &Place) -> (Folder, Option<S3Error>) {
    let asked = Asked { doing: "listing", key: prefix, permission: "s3:ListBucket on the bucket", place };
    let mut folder = Folder::default();
    let mut pages = Pages::default();
    let mut token = None;
    loop {
        let request = client
            .list_objects_v2()
            .bucket(&place.bucket)
            .set_prefix(Some(prefix).filter(|prefix| !prefix.is_empty()).map(Into::into))
            .delimiter("/")
            .set_continuation_token(token);
        let page = match request.customize().interceptor(WholeXml).send().await {
            Ok(page) => page,
            Err(error) => return (folder, Some(asked.failed(&error))),
        };
        match pages.take(page, prefix, &mut folder) {
            Ok(None) => return (folder, None),
            Ok(next) => token = next,
            Err(Fault(fault)) => return (folder, Some(asked.say(Category::Protocol, format!("cannot be believed: {fault}")))),
        }
    }
}

/// What is wrong with a page.
#[derive(Debug, PartialEq, Eq)]
struct Fault(&'static str);

/// What earlier pages brought, as far as it is needed to see whether a later one brings anything.
#[derive(Default)]
struct Pages {
    count: usize,
    tokens: BTreeSet<String>,
    seen: BTreeSet<String>,
}

impl Pages {
    /// Takes over what a page shows; returns the token of the next one.
    fn take(&mut self, page: ListObjectsV2Output, prefix: &str, folder: &mut Folder) -> Result<Option<String>, Fault> {
        let before = self.seen.len();
        let truncated = page.is_truncated.ok_or(Fault("it does not say whether it is complete"))?;
        let shown = page.contents().len() + page.common_prefixes().len();
        if page.key_count.is_some_and(|count| usize::try_from(count) != Ok(shown)) {
            return Err(Fault("it shows another number of keys than it says"));
        }
        for subfolder in page.common_prefixes.unwrap_or_default() {
            self.seen.extend(subfolder.prefix);
        }
        for object in page.contents.unwrap_or_default() {
            let key = object.key.clone().ok_or(Fault("it shows an object without a key"))?;
            add(&object, &key, prefix, folder)?;
            self.seen.insert(key);
        }
        if !truncated {
            return Ok(None);
        }
        let token = page.next_continuation_token.filter(|token| !token.is_empty());
        let token = token.ok_or(Fault("it says that there is more, and not how to ask for it"))?;
        self.count += 1;
        match () {
            () if self.seen.len() == before => Err(Fault("it says that there is more, and a page brings nothing new")),
            () if !self.tokens.insert(token.clone()) => Err(Fault("it leads back to a page that was seen")),
            () if self.count >= MAX_PAGES => Err(Fault("it has more than a thousand pages")),
            () => Ok(Some(token)),
        }
    }
}

fn add(object: &Object, key: &str, prefix: &str, folder: &mut Folder) -> Result<(), Fault> {
    let Some(name) = key.strip_prefix(prefix) else {
        folder.outside += 1;
        return Ok(());
    };
    let size = object.size.and_then(|size| u64::try_from(size).ok()).ok_or(Fault("it shows an object without a size"))?;
    // K3s skips empty objects as well: they stand for folders, or are uploads that never happened.
    let (Ok(name), 1..) = (FileName::new(name), size) else { return Ok(()) };
    let etag = object.e_tag.as_deref().map(plain_etag).filter(|etag| !etag.is_empty());
    let etag = etag.ok_or(Fault("it shows an object without an ETag"))?.to_string();
    let modified =
        object.last_modified.as_ref().and_then(|time| Timestamp::new(time.secs(), i32::try_from(time.subsec_nanos()).ok()?).ok());
    let modified = modified.ok_or(Fault("it shows an object without a time"))?;
    folder.entries.insert(name, Entry { etag, size, modified });
    Ok(())
}

/// Without quotes and the mark of a weak one: some servers write them in one place and not in another.
pub fn plain_etag(etag: &str) -> &str {
    etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')
}

/// Refuses XML that is cut off or broken: the SDK takes the part before for the whole.
#[derive(Debug)]
struct WholeXml;

impl Intercept for WholeXml {
    fn name(&self) -> &'static str {
        "WholeXml"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if context.output_or_error().is_err() {
            return Ok(());
        }
        let body = context.response().body().bytes().unwrap_or_default();
        if is_whole(std::str::from_utf8(body)?) { Ok(()) } else { Err("the XML of the listing is cut off or broken".into()) }
    }
}

fn is_whole(xml: &str) -> bool {
    let mut depth = 0_usize;
    let mut elements = 0_usize;
    for token in Tokenizer::from(xml) {
        match token {
            Ok(Token::ElementStart { .. }) => {
                elements += 1;
                depth += 1;
            }
            Ok(Token::ElementEnd { end: ElementEnd::Close(..) | ElementEnd::Empty, .. }) => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    depth == 0 && elements > 0
}
