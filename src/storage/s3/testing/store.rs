//! The store of the test server: s3s-fs, and what it leaves out.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, io};

use md5::{Digest as _, Md5};
use s3s::dto;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

/// Few, so that there is always another page.
const PAGE: usize = 2;

/// ETags in listings; parts and uploads that can be listed, in pages of two; uploads that are not known any more.
pub struct FullStore {
    files: FileSystem,
    root: PathBuf,
    /// By upload id.
    uploads: Mutex<BTreeMap<String, Begun>>,
    /// `If-None-Match` is taken for a header that means nothing.
    ignores_conditions: Arc<AtomicBool>,
}

/// What the begin of an upload said.
#[derive(Clone)]
struct Begun {
    key: String,
    at: dto::Timestamp,
    content_type: Option<String>,
    metadata: Option<dto::Metadata>,
}

type Answered<T> = S3Result<S3Response<T>>;

impl FullStore {
    pub fn new(root: PathBuf, ignores_conditions: Arc<AtomicBool>) -> Self {
        Self { files: FileSystem::new(&root).unwrap(), root, uploads: Mutex::default(), ignores_conditions }
    }

    /// The condition as this store hears it.
    fn heard<C>(&self, condition: Option<C>) -> Option<C> {
        condition.filter(|_| !self.ignores_conditions.load(Ordering::Relaxed))
    }

    fn uploads(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Begun>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn knows(&self, id: &str) -> S3Result<()> {
        if self.uploads().contains_key(id) { Ok(()) } else { Err(s3_error!(NoSuchUpload)) }
    }

    fn part(&self, id: &str, number: i32) -> io::Result<Vec<u8>> {
        fs::read(self.root.join(format!(".upload_id-{id}.part-{number}")))
    }
}

#[async_trait::async_trait]
impl S3 for FullStore {
    async fn list_objects_v2(&self, request: S3Request<dto::ListObjectsV2Input>) -> Answered<dto::ListObjectsV2Output> {
        let bucket = request.input.bucket.clone();
        let mut listed = self.files.list_objects_v2(request).await?;
        for object in listed.output.contents.iter_mut().flatten() {
            let key = object.key.clone().unwrap_or_default();
            let input = dto::HeadObjectInput::builder().bucket(bucket.clone()).key(key).build().map_err(s3s::S3Error::internal_error)?;
            object.e_tag = self.files.head_object(internal(input)).await?.output.e_tag;
        }
        Ok(listed)
    }

    async fn head_object(&self, request: S3Request<dto::HeadObjectInput>) -> Answered<dto::HeadObjectOutput> {
        self.files.head_object(request).await
    }

    async fn get_object(&self, request: S3Request<dto::GetObjectInput>) -> Answered<dto::GetObjectOutput> {
        self.files.get_object(request).await
    }

    async fn put_object(&self, mut request: S3Request<dto::PutObjectInput>) -> Answered<dto::PutObjectOutput> {
        request.input.if_none_match = self.heard(request.input.if_none_match.take());
        self.files.put_object(request).await
    }

    async fn delete_object(&self, request: S3Request<dto::DeleteObjectInput>) -> Answered<dto::DeleteObjectOutput> {
        self.files.delete_object(request).await
    }

    async fn head_bucket(&self, request: S3Request<dto::HeadBucketInput>) -> Answered<dto::HeadBucketOutput> {
        self.files.head_bucket(request).await
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> Answered<dto::CreateMultipartUploadOutput> {
        let dto::CreateMultipartUploadInput { key, content_type, metadata, .. } = request.input.clone();
        let begun = self.files.create_multipart_upload(request).await?;
        let id = begun.output.upload_id.clone().unwrap_or_default();
        self.uploads().insert(id, Begun { key, at: std::time::SystemTime::now().into(), content_type, metadata });
        Ok(begun)
    }

    async fn upload_part(&self, request: S3Request<dto::UploadPartInput>) -> Answered<dto::UploadPartOutput> {
        let (id, number) = (request.input.upload_id.clone(), request.input.part_number);
        self.knows(&id)?;
        let told = request.input.content_md5.clone();
        let sent = self.files.upload_part(request).await?;
        let arrived = super::super::source::content_md5(Md5::digest(self.part(&id, number).unwrap()).into());
        if told != Some(arrived) {
            return Err(s3_error!(BadDigest));
        }
        Ok(sent)
    }

    async fn complete_multipart_upload(
        &self,
        mut request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> Answered<dto::CompleteMultipartUploadOutput> {
        request.input.if_none_match = self.heard(request.input.if_none_match.take());
        let id = request.input.upload_id.clone();
        self.knows(&id)?;
        let dto::CompleteMultipartUploadInput { bucket, key, if_none_match, multipart_upload, .. } = request.input.clone();
        let parts = multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts: Vec<_> = parts.iter().map(|part| self.part(&id, part.part_number.unwrap()).unwrap()).collect();
        let completed = if parts.iter().rev().skip(1).all(|part| part.len() >= 5 << 20) {
            self.files.complete_multipart_upload(request).await?
        } else {
            // Parts this small are refused by S3 and by s3s-fs, and make tests that are over in no time.
            let Begun { content_type, metadata, .. } = self.uploads()[&id].clone();
            let body = dto::StreamingBlob::from(s3s::Body::from(parts.concat()));
            let put = dto::PutObjectInput::builder().bucket(bucket).key(key).body(Some(body)).if_none_match(if_none_match);
            let put = put.content_type(content_type).metadata(metadata).build().map_err(s3s::S3Error::internal_error)?;
            self.files.put_object(internal(put)).await?;
            S3Response::new(dto::CompleteMultipartUploadOutput::default())
        };
        self.uploads().remove(&id);
        Ok(completed)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<dto::AbortMultipartUploadInput>,
    ) -> Answered<dto::AbortMultipartUploadOutput> {
        let id = request.input.upload_id.clone();
        self.knows(&id)?;
        self.uploads().remove(&id);
        self.files.abort_multipart_upload(request).await
    }

    async fn list_parts(&self, request: S3Request<dto::ListPartsInput>) -> Answered<dto::ListPartsOutput> {
        let id = request.input.upload_id.clone();
        self.knows(&id)?;
        let after = request.input.part_number_marker.unwrap_or_default();
        let mut listed = self.files.list_parts(request).await?;
        let mut parts = listed.output.parts.take().unwrap_or_default();
        parts.retain(|part| part.part_number > Some(after));
        parts.sort_by_key(|part| part.part_number);
        listed.output.is_truncated = Some(parts.len() > PAGE);
        parts.truncate(PAGE);
        for part in &mut parts {
            part.e_tag = Some(dto::ETag::Strong(super::md5_hex(&self.part(&id, part.part_number.unwrap()).unwrap())));
        }
        listed.output.next_part_number_marker = parts.last().and_then(|part| part.part_number);
        listed.output.parts = Some(parts);
        Ok(listed)
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<dto::ListMultipartUploadsInput>,
    ) -> Answered<dto::ListMultipartUploadsOutput> {
        let prefix = request.input.prefix.unwrap_or_default();
        let after = request.input.key_marker.zip(request.input.upload_id_marker);
        let mut uploads: Vec<_> = self.uploads().iter().map(|(id, begun)| (begun.key.clone(), id.clone(), begun.at.clone())).collect();
        uploads.sort();
        uploads.retain(|(key, id, _)| key.starts_with(&prefix) && Some((key.clone(), id.clone())) > after);
        let mut output = dto::ListMultipartUploadsOutput { is_truncated: Some(uploads.len() > PAGE), ..Default::default() };
        uploads.truncate(PAGE);
        (output.next_key_marker, output.next_upload_id_marker) = uploads.last().map(|(key, id, _)| (key.clone(), id.clone())).unzip();
        let shown =
            |(key, id, begun)| dto::MultipartUpload { key: Some(key), upload_id: Some(id), initiated: Some(begun), ..Default::default() };
        output.uploads = Some(uploads.into_iter().map(shown).collect());
        Ok(S3Response::new(output))
    }
}

fn internal<T>(input: T) -> S3Request<T> {
    S3Request {
        input,
        method: http::Method::HEAD,
        uri: http::Uri::default(),
        headers: http::HeaderMap::new(),
        extensions: http::Extensions::new(),
        credentials: None,
        region: None,
        service: None,
        trailing_headers: None,
    }
}
