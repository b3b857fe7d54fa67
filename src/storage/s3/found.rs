//! What an object under the key of an upload is: the very same, K3s's own, or another one, which is never overwritten.
//!
//! Pure. In: what goes up, and the answer to a HEAD. Out: a verdict, or the half sentence of a conflict.

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::ServerSideEncryption;

use super::list::plain_etag;
use super::look::UserMetadata;
use super::upload::Outgoing;

/// What is under the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// An object with the same digest and size.
    Same {
        /// It shows another cluster's id: then it is left alone, and so is its sidecar.
        foreign: bool,
    },
    /// One without a digest, of our cluster and node, and as large: K3s has uploaded it.
    TakenAsDone,
}

/// Judges an object by its size and user metadata. The error says what it is instead.
pub fn found(going: &Outgoing, size: u64, user: &UserMetadata) -> Result<Found, String> {
    let UserMetadata { cluster, node, sha256, .. } = user;
    let foreign = cluster.as_ref().filter(|cluster| **cluster != going.cluster);
    match (sha256, foreign, cluster, node) {
        (Some(sha256), ..) if *sha256 == going.sha256 && size == going.size => Ok(Found::Same { foreign: foreign.is_some() }),
        (_, Some(cluster), ..) => Err(format!("of cluster {}, and this is cluster {}", shown(cluster.as_str()), going.cluster)),
        _ if size != going.size => Err(format!("of {size} bytes, and the file has {}", going.size)),
        (Some(sha256), ..) => Err(format!("with the SHA-256 {sha256}, and the file has {}", going.sha256)),
        (None, _, None, _) => Err("that shows neither a SHA-256 nor a cluster id".into()),
        (None, _, _, Some(node)) if *node == going.node => Ok(Found::TakenAsDone),
        (None, _, _, Some(node)) => Err(format!("of node {node}, and this is node {}", going.node)),
        (None, _, _, None) => Err("that shows neither a SHA-256 nor a node".into()),
    }
}

/// A text of a server, if it has the shape of an id.
fn shown(text: &str) -> &str {
    let is_id = !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if is_id { text } else { "(unreadable)" }
}

/// The MD5 of an object's bytes, where its ETag is one: 32 hex digits, and encrypted with no key of its own.
pub fn md5_of(head: &HeadObjectOutput) -> Option<[u8; 16]> {
    let own_key = !matches!(head.server_side_encryption(), None | Some(ServerSideEncryption::Aes256));
    if own_key || head.sse_customer_algorithm().is_some() || head.ssekms_key_id().is_some() {
        return None;
    }
    md5_in(head.e_tag()?)
}

/// The MD5 that an ETag may be. It proves that bytes are equal, and nothing when it is another.
pub fn md5_in(etag: &str) -> Option<[u8; 16]> {
    let hex = plain_etag(etag);
    let mut md5 = [0; 16];
    if hex.len() != 32 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in md5.iter_mut().zip(hex.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(md5)
}
