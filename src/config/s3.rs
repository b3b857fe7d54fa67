//! From the settings of S3 to one access.
//!
//! In: the layer of flags, environment and files, which stays the same for one run; the layer of the Secret and the certificates of its
//! ConfigMap, which may be others at each beat. Out: an [`S3Access`], or the one sentence that says why there is none. Pure, but for
//! certificate files, which the function that is passed in reads.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use rustls::pki_types::CertificateDer;

use super::ca::{self, Anchors, Ca, CaBundles};
use super::endpoint::{self, Endpoint, Proxy};
use super::error::{ConfigError, Warning};
use super::sources::{Sourced, Texts};
use super::values::{self, Problem};
use crate::snapshot::Storage;

/// Where a bucket's name stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lookup {
    /// In the host name.
    Dns,
    /// In the path.
    Path,
    /// Wherever this server is known to want it.
    Auto,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text: for signing requests, and for nothing else.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(not shown)")
    }
}

/// Static credentials, all from one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The access key.
    pub access_key: Secret,
    /// The secret key.
    pub secret_key: Secret,
    /// The session token of temporary credentials.
    pub session_token: Option<Secret>,
}

/// Everything it takes to reach a bucket. Equal accesses mean that a client made from one serves the other.
#[derive(Clone, PartialEq, Eq)]
pub struct S3Access {
    /// The server.
    pub endpoint: Endpoint,
    /// Plain HTTP instead of TLS.
    pub insecure: bool,
    /// Take any certificate; wins over `ca`.
    pub skip_verify: bool,
    /// The certificates that the server's has to be signed by; none means the system's.
    pub ca: Vec<CertificateDer<'static>>,
    /// What `spec.s3.endpointCA` shows: paths and base64 of PEM with spaces between.
    pub endpoint_ca: String,
    /// The bucket.
    pub bucket: String,
    /// The folder without outer slashes; empty for the bucket's root.
    pub folder: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Where the bucket's name stands in a request.
    pub lookup: Lookup,
    /// How to reach the server.
    pub proxy: Proxy,
    /// The credentials; none means those of the surroundings.
    pub keys: Option<Keys>,
    /// The longest time for one request.
    pub timeout: Duration,
    /// How many snapshots the bucket keeps; 0 means all.
    pub retention: u32,
}

impl S3Access {
    /// Whether TLS is spoken.
    pub fn tls(&self) -> bool {
        !self.insecure
    }

    /// The server with its scheme, as a client wants it.
    pub fn endpoint_url(&self) -> String {
        format!("{}://{}", if self.tls() { "https" } else { "http" }, self.endpoint)
    }

    /// The storage that this reaches.
    pub fn storage(&self) -> Storage {
        Storage::s3(self.endpoint.as_str(), self.tls(), &self.bucket, &self.folder)
    }
}

/// Certificates are counted: they are long, and nobody reads them in a log.
impl fmt::Debug for S3Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Access")
            .field("url", &self.endpoint_url())
            .field("bucket", &self.bucket)
            .field("folder", &self.folder)
            .field("region", &self.region)
            .field("lookup", &self.lookup)
            .field("skip_verify", &self.skip_verify)
            .field("certificates", &self.ca.len())
            .field("proxy", &self.proxy)
            .field("keys", &self.keys.is_some())
            .field("timeout", &self.timeout)
            .field("retention", &self.retention)
            .finish_non_exhaustive()
    }
}

/// The settings of S3 from one or more places, each valid by itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Layer {
    enabled: Option<Sourced<bool>>,
    config_secret: Option<Sourced<String>>,
    endpoint: Option<Sourced<Endpoint>>,
    bucket: Option<Sourced<String>>,
    folder: Option<Sourced<String>>,
    region: Option<Sourced<String>>,
    lookup: Option<Sourced<Lookup>>,
    keys: Option<Sourced<Keys>>,
    ca: Option<Sourced<Ca>>,
    ca_map: Option<Sourced<String>>,
    skip_verify: Option<Sourced<bool>>,
    insecure: Option<Sourced<bool>>,
    proxy: Option<Sourced<Proxy>>,
    timeout: Option<Sourced<Duration>>,
    retention: Option<Sourced<u32>>,
    local_retention: Option<Sourced<u32>>,
}

impl S3Layer {
    pub(super) fn new(texts: &Texts) -> Result<Self, ConfigError> {
        Ok(Self {
            enabled: texts.parse("etcd-s3", values::switch)?,
            config_secret: texts.parse("etcd-s3-config-secret", values::object)?,
            endpoint: texts.parse("etcd-s3-endpoint", endpoint::endpoint)?,
            bucket: texts.parse("etcd-s3-bucket", endpoint::bucket)?,
            folder: texts.parse("etcd-s3-folder", endpoint::folder)?,
            region: texts.parse("etcd-s3-region", endpoint::region)?,
            lookup: texts.parse("etcd-s3-bucket-lookup-type", lookup)?,
            keys: keys(texts)?,
            ca: texts
                .parse("etcd-s3-endpoint-ca", |text| Ok(if ca::is_pem(text) { Ca::Pem(text.into()) } else { Ca::Items(text.into()) }))?,
            ca_map: texts.parse("etcd-s3-endpoint-ca-name", values::object)?,
            skip_verify: texts.parse("etcd-s3-skip-ssl-verify", values::switch)?,
            insecure: texts.parse("etcd-s3-insecure", values::switch)?,
            proxy: texts.parse("etcd-s3-proxy", endpoint::proxy)?,
            timeout: texts.parse("etcd-s3-timeout", values::time)?,
            retention: texts.parse("etcd-s3-retention", values::count)?,
            local_retention: texts.parse("etcd-snapshot-retention", values::count)?,
        })
    }

    /// Reads the data of the Secret called `secret` (`<namespace>/<name>`).
    pub fn from_secret(secret: &str, data: &BTreeMap<String, Vec<u8>>) -> Result<(Self, Vec<Warning>), ConfigError> {
        let (texts, warnings) = Texts::of_secret(secret, data)?;
        let mut layer = Self::new(&texts)?;
        // A Secret holds PEM and nothing else: the paths of a node are not its business, and base64 is how Kubernetes shows every value.
        if let Some(Sourced { value: Ca::Items(text), origin }) = layer.ca {
            layer.ca = Some(Sourced { value: Ca::Pem(text), origin });
        }
        Ok((layer, warnings))
    }

    /// Whether there is a bucket at all.
    pub fn is_on(&self) -> bool {
        self.enabled.as_ref().is_some_and(|on| on.value)
    }

    /// The name of the Secret to read, if S3 is on and a Secret is named.
    pub fn config_secret(&self) -> Option<&str> {
        self.config_secret.as_ref().filter(|_| self.is_on()).map(|name| name.value.as_str())
    }

    /// What is set here, else what is set there.
    fn or(self, other: Self) -> Self {
        // The two ways to name certificates are one setting: what is set here is not to be widened from there.
        let ca_map = if self.ca.is_some() { self.ca_map } else { self.ca_map.or(other.ca_map) };
        Self {
            enabled: self.enabled.or(other.enabled),
            config_secret: self.config_secret.or(other.config_secret),
            endpoint: self.endpoint.or(other.endpoint),
            bucket: self.bucket.or(other.bucket),
            folder: self.folder.or(other.folder),
            region: self.region.or(other.region),
            lookup: self.lookup.or(other.lookup),
            keys: self.keys.or(other.keys),
            ca: self.ca.or(other.ca),
            ca_map,
            skip_verify: self.skip_verify.or(other.skip_verify),
            insecure: self.insecure.or(other.insecure),
            proxy: self.proxy.or(other.proxy),
            timeout: self.timeout.or(other.timeout),
            retention: self.retention.or(other.retention),
            local_retention: self.local_retention.or(other.local_retention),
        }
    }

    /// Fails when these settings can never make an access, so that a run need not begin. A Secret may still complete them.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        match &self.bucket {
            None if self.is_on() && self.config_secret.is_none() => Err(ConfigError::Missing("etcd-s3-bucket")),
            _ => Ok(()),
        }
    }

    /// Fails when a certificate that is set here is none. `read` reads a file of certificates.
    pub fn check_certificates(&self, read: &dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Result<(), ConfigError> {
        self.ca.iter().filter(|_| self.is_on()).try_for_each(|ca| Anchors::default().add_setting(ca, read))
    }
}

/// The name of the ConfigMap whose values [`resolve_s3`] wants, if it wants one.
pub fn ca_config_map<'a>(settings: &S3Layer, secret: Option<&'a S3Layer>) -> Option<&'a str> {
    let secret = secret.filter(|_| settings.is_on() && settings.config_secret.is_some() && settings.ca.is_none())?;
    secret.ca_map.as_ref().map(|map| map.value.as_str())
}

/// Merges the settings with those of the Secret, key by key, and fills in the defaults. None when S3 is off.
///
/// A Secret that is named and not given is an error: without it the access could lead to another bucket. So is a ConfigMap.
/// `read` reads a file of certificates.
pub fn resolve_s3(
    settings: &S3Layer,
    secret: Option<&S3Layer>,
    bundles: Option<&CaBundles>,
    read: &dyn Fn(&Path) -> io::Result<Vec<u8>>,
) -> Result<Option<S3Access>, ConfigError> {
    if !settings.is_on() {
        return Ok(None);
    }
    let merged = match (&settings.config_secret, secret) {
        (Some(name), None) => return Err(unread("Secret", name)),
        (Some(_), Some(secret)) => settings.clone().or(secret.clone()),
        (None, _) => settings.clone(),
    };
    let defaults = S3Layer::new(&Texts::of_defaults())?;
    let retention = merged.retention.clone().or_else(|| merged.local_retention.clone());
    let merged = S3Layer { retention, ..merged }.or(defaults);

    let mut anchors = Anchors::default();
    if let Some(ca) = &merged.ca {
        anchors.add_setting(ca, read)?;
    }
    if let Some(map) = &merged.ca_map {
        anchors.add_bundles(map, bundles.ok_or_else(|| unread("ConfigMap", map))?)?;
    }
    let endpoint = value(merged.endpoint, "etcd-s3-endpoint")?;
    let lookup = match value(merged.lookup, "etcd-s3-bucket-lookup-type")? {
        Lookup::Auto if endpoint.as_str().contains("aliyun") => Lookup::Dns,
        lookup => lookup,
    };
    Ok(Some(S3Access {
        endpoint,
        insecure: value(merged.insecure, "etcd-s3-insecure")?,
        skip_verify: value(merged.skip_verify, "etcd-s3-skip-ssl-verify")?,
        ca: anchors.certificates,
        endpoint_ca: anchors.text,
        bucket: value(merged.bucket, "etcd-s3-bucket")?,
        folder: merged.folder.map(|folder| folder.value).unwrap_or_default(),
        region: value(merged.region, "etcd-s3-region")?,
        lookup,
        proxy: merged.proxy.map_or(Proxy::Environment, |proxy| proxy.value),
        keys: merged.keys.map(|keys| keys.value),
        timeout: value(merged.timeout, "etcd-s3-timeout")?,
        retention: value(merged.retention, "etcd-s3-retention")?,
    }))
}

fn value<T>(sourced: Option<Sourced<T>>, setting: &'static str) -> Result<T, ConfigError> {
    sourced.map(|sourced| sourced.value).ok_or(ConfigError::Missing(setting))
}

fn unread(kind: &'static str, name: &Sourced<String>) -> ConfigError {
    ConfigError::Unread { kind, name: name.value.clone(), origin: name.origin.clone() }
}

fn keys(texts: &Texts) -> Result<Option<Sourced<Keys>>, ConfigError> {
    let visible = |text: &str| secret(text, text.bytes().all(|b| b.is_ascii_graphic()));
    let Some(Sourced { value: access_key, origin }) = texts.parse("etcd-s3-access-key", visible)? else { return Ok(None) };
    let secret_key = texts.parse("etcd-s3-secret-key", |text| secret(text, !text.chars().any(char::is_control)))?;
    let Some(Sourced { value: secret_key, .. }) = secret_key else { return Err(ConfigError::HalfACredential(origin)) };
    let session_token = texts.parse("etcd-s3-session-token", visible)?.map(|token| token.value);
    Ok(Some(Sourced { value: Keys { access_key, secret_key, session_token }, origin }))
}

fn secret(text: &str, fits: bool) -> Result<Secret, Problem> {
    if fits { Ok(Secret(text.into())) } else { Err("has a character in it that no request can carry".into()) }
}

fn lookup(text: &str) -> Result<Lookup, Problem> {
    match text {
        "dns" => Ok(Lookup::Dns),
        "path" => Ok(Lookup::Path),
        "auto" => Ok(Lookup::Auto),
        _ => Err("is none of auto, dns and path".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Environment, Flags};
    use super::*;

    fn no_file(_: &Path) -> io::Result<Vec<u8>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn settings(flags: &[(&'static str, &str)]) -> S3Layer {
        let flags: Flags = flags.iter().map(|(name, text)| (*name, (*text).to_string())).collect();
        S3Layer::new(&Texts::collect(&flags, &Environment::default(), &[]).unwrap().0).unwrap()
    }

    fn secret(data: &[(&str, &str)]) -> S3Layer {
        let data = data.iter().map(|(key, text)| ((*key).to_string(), text.as_bytes().to_vec())).collect();
        let (layer, warnings) = S3Layer::from_secret("kube-system/s3", &data).unwrap();
        assert_eq!(warnings, Vec::<Warning>::new());
        layer
    }

    fn resolved(flags: &[(&'static str, &str)]) -> Result<S3Access, String> {
        resolve_s3(&settings(flags), None, None, &no_file).map(|access| access.expect("on")).map_err(|error| error.to_string())
    }

    fn pem() -> String {
        rcgen::generate_simple_self_signed(vec!["minio".into()]).unwrap().cert.pem()
    }

    #[test]
    fn s3_is_off_until_it_is_turned_on() {
        let secret = secret(&[("etcd-s3-bucket", "etcd")]);
        for flags in [&[][..], &[("etcd-s3", "false"), ("etcd-s3-bucket", "etcd")], &[("etcd-s3-config-secret", "s3")]] {
            let settings = settings(flags);
            assert_eq!((settings.is_on(), settings.config_secret()), (false, None));
            assert_eq!(resolve_s3(&settings, Some(&secret), None, &no_file).unwrap(), None);
        }
    }

    #[test]
    fn defaults_are_those_of_k3s() {
        let access = resolved(&[("etcd-s3", "true"), ("etcd-s3-bucket", "etcd")]).unwrap();
        assert_eq!(
            (access.endpoint.as_str(), access.endpoint.host(), access.endpoint.port()),
            ("s3.amazonaws.com", "s3.amazonaws.com", None)
        );
        assert_eq!((access.region.as_str(), access.folder.as_str(), access.lookup), ("us-east-1", "", Lookup::Auto));
        assert_eq!((access.timeout, access.retention), (Duration::from_mins(5), 5));
        assert_eq!((access.insecure, access.skip_verify, access.proxy, access.keys), (false, false, Proxy::Environment, None));
        assert_eq!((access.ca, access.endpoint_ca), (Vec::new(), String::new()));
    }

    #[test]
    fn an_access_knows_its_url_and_its_storage() {
        let flags = [("etcd-s3", "1"), ("etcd-s3-bucket", "etcd"), ("etcd-s3-endpoint", "MinIO:80"), ("etcd-s3-folder", "/a/b/")];
        let mut access = resolved(&flags).unwrap();
        assert_eq!(access.endpoint_url(), "https://MinIO:80");
        access.insecure = true;
        assert_eq!(access.endpoint_url(), "http://MinIO:80");
        assert_eq!(access.storage(), Storage::S3 { endpoint: "minio".into(), bucket: "etcd".into(), folder: "a/b".into() });
    }

    /// The example of K3s's documentation, as it is decoded, with an endpoint that is there and empty.
    #[test]
    fn the_secret_of_k3s_documentation_is_understood() {
        let example = [
            ("etcd-s3-endpoint", ""),
            ("etcd-s3-endpoint-ca", ""),
            ("etcd-s3-endpoint-ca-name", ""),
            ("etcd-s3-skip-ssl-verify", "false"),
            ("etcd-s3-access-key", "AWS_ACCESS_KEY_ID"),
            ("etcd-s3-secret-key", "AWS_SECRET_ACCESS_KEY"),
            ("etcd-s3-session-token", ""),
            ("etcd-s3-bucket", "bucket"),
            ("etcd-s3-bucket-lookup-type", "auto"),
            ("etcd-s3-folder", "folder"),
            ("etcd-s3-retention", "5"),
            ("etcd-s3-region", "us-east-1"),
            ("etcd-s3-insecure", "false"),
            ("etcd-s3-timeout", "5m"),
            ("etcd-s3-proxy", ""),
        ];
        let settings = settings(&[("etcd-s3", "true"), ("etcd-s3-config-secret", "k3s-etcd-snapshot-s3-config")]);
        assert_eq!(settings.config_secret(), Some("k3s-etcd-snapshot-s3-config"));
        let secret = secret(&example);
        assert_eq!(ca_config_map(&settings, Some(&secret)), None);
        let access = resolve_s3(&settings, Some(&secret), None, &no_file).unwrap().unwrap();
        let keys = access.keys.clone().unwrap();
        assert_eq!((keys.access_key.expose(), keys.secret_key.expose()), ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"));
        assert_eq!(keys.session_token, None);
        let expected = resolved(&[("etcd-s3", "true"), ("etcd-s3-bucket", "bucket"), ("etcd-s3-folder", "folder")]).unwrap();
        assert_eq!(access, S3Access { keys: Some(keys), ..expected });
    }

    #[test]
    fn a_secret_fills_in_what_is_not_set_elsewhere() {
        let settings =
            settings(&[("etcd-s3", "true"), ("etcd-s3-config-secret", "s3"), ("etcd-s3-bucket", "of-flag"), ("etcd-s3-insecure", "false")]);
        let mut data = vec![
            ("etcd-s3-bucket", "of-secret"),
            ("etcd-s3-folder", "of-secret"),
            ("etcd-s3-insecure", "true"),
            ("etcd-s3-skip-ssl-verify", "true"),
            ("etcd-s3-timeout", "7s\n"),
        ];
        let access = |data: &[(&str, &str)]| resolve_s3(&settings, Some(&secret(data)), None, &no_file).unwrap().unwrap();
        let first = access(&data);
        assert_eq!(
            (first.bucket.as_str(), first.folder.as_str(), first.insecure, first.skip_verify),
            ("of-flag", "of-secret", false, true)
        );
        assert_eq!(first.timeout, Duration::from_secs(7));
        assert_eq!(first, access(&data));
        data.push(("etcd-s3-proxy", "http://me:pass@proxy"));
        assert_ne!(first, access(&data));
    }

    #[test]
    fn credentials_come_from_one_place() {
        let from_secret = secret(&[("etcd-s3-access-key", "a2"), ("etcd-s3-secret-key", "s2"), ("etcd-s3-session-token", "t2")]);
        let base = [("etcd-s3", "true"), ("etcd-s3-config-secret", "s3"), ("etcd-s3-bucket", "etcd")];
        let keys = |more: &[(&'static str, &str)]| {
            let access = resolve_s3(&settings(&[&base[..], more].concat()), Some(&from_secret), None, &no_file).unwrap().unwrap();
            let keys = access.keys.unwrap();
            (keys.access_key.0, keys.secret_key.0, keys.session_token.map(|token| token.0))
        };
        let of_secret = ("a2".to_string(), "s2".to_string(), Some("t2".to_string()));
        assert_eq!(keys(&[]), of_secret);
        assert_eq!(keys(&[("etcd-s3-secret-key", "s1")]), of_secret);
        assert_eq!(keys(&[("etcd-s3-access-key", "a1"), ("etcd-s3-secret-key", "s1")]), ("a1".to_string(), "s1".to_string(), None));
    }

    #[test]
    fn retention_is_that_of_the_directory_when_the_bucket_has_none() {
        let file = |text: &str| super::super::file::ConfigFile {
            path: "/c.yaml".into(),
            text: format!("etcd-s3: true\netcd-s3-bucket: etcd\netcd-s3-config-secret: s\n{text}"),
        };
        let retention = |text: &str, data: &[(&str, &str)]| {
            let texts = Texts::collect(&Flags::default(), &Environment::default(), &[file(text)]).unwrap().0;
            resolve_s3(&S3Layer::new(&texts).unwrap(), Some(&secret(data)), None, &no_file).unwrap().unwrap().retention
        };
        let of_secret = [("etcd-s3-retention", "9")];
        assert_eq!(retention("", &[]), 5);
        assert_eq!(retention("etcd-snapshot-retention: 7", &[]), 7);
        assert_eq!(retention("etcd-snapshot-retention: 7", &of_secret), 9);
        assert_eq!(retention("etcd-snapshot-retention: 7\netcd-s3-retention: 0", &of_secret), 0);
    }

    #[test]
    fn lookup_is_auto_but_for_aliyun() {
        let lookup = |endpoint, kind| {
            resolved(&[("etcd-s3", "t"), ("etcd-s3-bucket", "etcd"), ("etcd-s3-endpoint", endpoint), ("etcd-s3-bucket-lookup-type", kind)])
                .unwrap()
                .lookup
        };
        assert_eq!(lookup("minio", ""), Lookup::Auto);
        assert_eq!(lookup("minio", "dns"), Lookup::Dns);
        assert_eq!(lookup("oss.aliyuncs.com", "auto"), Lookup::Dns);
        assert_eq!(lookup("oss.aliyuncs.com", "path"), Lookup::Path);
    }

    #[test]
    fn certificates_of_a_setting_are_not_widened_by_the_secret() {
        let (one, two) = (pem(), pem());
        let secret = secret(&[("etcd-s3-endpoint-ca", &one), ("etcd-s3-endpoint-ca-name", "ca")]);
        let base = [("etcd-s3", "true"), ("etcd-s3-config-secret", "s3"), ("etcd-s3-bucket", "etcd")];
        let plain = settings(&base);
        assert_eq!(ca_config_map(&plain, Some(&secret)), Some("ca"));
        let bundles = CaBundles::from([("ca.crt".to_string(), two.into_bytes())]);
        let access = resolve_s3(&plain, Some(&secret), Some(&bundles), &no_file).unwrap().unwrap();
        assert_eq!((access.ca.len(), access.endpoint_ca.split(' ').count()), (2, 2));
        let error = resolve_s3(&plain, Some(&secret), None, &no_file).unwrap_err();
        assert_eq!(
            error.to_string(),
            "ConfigMap \"ca\" could not be read (named by key etcd-s3-endpoint-ca-name of Secret kube-system/s3)"
        );

        let with_ca = settings(&[&base[..], &[("etcd-s3-endpoint-ca", "/ca.crt")]].concat());
        assert_eq!(ca_config_map(&with_ca, Some(&secret)), None);
        let access = resolve_s3(&with_ca, Some(&secret), None, &|_| Ok(one.clone().into())).unwrap().unwrap();
        assert_eq!((access.ca.len(), access.endpoint_ca.as_str()), (1, "/ca.crt"));
    }

    #[test]
    fn a_named_secret_that_was_not_read_leads_nowhere() {
        let settings = settings(&[("etcd-s3", "true"), ("etcd-s3-config-secret", "s3"), ("etcd-s3-bucket", "etcd")]);
        let error = resolve_s3(&settings, None, None, &no_file).unwrap_err();
        assert_eq!(
            (error.to_string().as_str(), error.category()),
            ("Secret \"s3\" could not be read (named by flag --etcd-s3-config-secret)", "unread")
        );
    }

    #[test]
    fn a_secret_without_a_bucket_is_incomplete() {
        let settings = settings(&[("etcd-s3", "true"), ("etcd-s3-config-secret", "s3")]);
        assert!(settings.check().is_ok());
        let error = resolve_s3(&settings, Some(&secret(&[])), None, &no_file).unwrap_err();
        assert!(matches!(error, ConfigError::Missing("etcd-s3-bucket")), "{error}");
    }
}
