//! Settings: those refused at the start, and those of the S3 Secret, which may become wrong and right again while it runs.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use e2e::certs::Ca;
use e2e::operator::{Operator, OperatorSetup};
use e2e::site::{FOLDER, Site, unique};
use e2e::snapshots;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};

use crate::look::{bucket_becomes, bucket_passes, errors, expected, falls_ill, is_well, local_becomes, said, states, value};

#[tokio::test]
async fn wrong_settings_are_refused_in_one_sentence_that_names_them() -> Result<()> {
    let site = Site::new().await?;
    let not_pem = site.scratch().join("not-pem");
    std::fs::write(&not_pem, "no certificate")?;
    let not_pem = not_pem.display().to_string();
    for (setting, value, sentence) in [
        ("etcd-snapshot-reconcile-interval", "soon", "\"soon\" is not a duration; write it like 5m or 90s"),
        ("etcd-snapshot-reconcile-interval", "0s", "\"0s\" is not above zero; write it like 5m or 90s"),
        ("etcd-s3-timeout", "0m", "\"0m\" is not above zero; write it like 5m or 90s"),
        ("etcd-s3-timeout", "5 minutes", "\"5 minutes\" is not a duration; write it like 5m or 90s"),
        (
            "etcd-s3-endpoint",
            "https://minio.example.com:9000",
            "\"https://minio.example.com:9000\" has a scheme; write minio.example.com:9000",
        ),
        (
            "etcd-s3-proxy",
            "proxy.example.com:3128",
            "\"proxy.example.com:3128\" is not the URL of a proxy; write it like http://proxy.example.com:3128, or none",
        ),
        ("etcd-s3-bucket", "s3://etcd", "\"s3://etcd\" is not the name of a bucket"),
        ("etcd-s3-bucket-lookup-type", "host", "\"host\" is none of auto, dns and path"),
        ("etcd-s3-endpoint-ca", &not_pem, "holds no certificate in PEM"),
        ("etcd-s3-endpoint-ca", "/no/such/ca.pem", "is neither base64 of a PEM certificate nor a file that can be read"),
        ("etcd-snapshot-dir", "snapshots", "\"snapshots\" is not an absolute path; write it from the root, with a slash first"),
        ("mode", "watch", "\"watch\" is neither manage nor observe"),
    ] {
        let said = site.operator_with_bucket().flag(&format!("--{setting}"), value).refuse().await?;
        let is_one = said.lines().count() == 1 && said.contains(&format!("{setting}: ")) && said.contains(sentence);
        ensure!(is_one && said.contains(&format!("(from flag --{setting})")), "{setting}={value}: {said}");
    }
    let said = site.operator_with_bucket().env("ETCD_S3_TIMEOUT", "-1s").refuse().await?;
    let sentence = "etcd-s3-timeout: \"-1s\" is not above zero; write it like 5m or 90s (from environment variable ETCD_S3_TIMEOUT)";
    ensure!(said.contains(sentence), "{said}");
    let said = site.operator_with_bucket().without("--etcd-s3-bucket").refuse().await?;
    ensure!(said.lines().count() == 1 && said.contains("etcd-s3-bucket is not set; give it with flag --etcd-s3-bucket"), "{said}");
    let said = site.operator_with_bucket().flag("--etcd-s3-proxy", "http//me:hunter2@proxy").refuse().await?;
    ensure!(said.contains("etcd-s3-proxy: ") && !said.contains("hunter2"), "{said}");
    let said = site.operator_with_bucket().without_env("AWS_SECRET_ACCESS_KEY").refuse().await?;
    ensure!(said.contains("etcd-s3-secret-key is not set where the access key is (environment variable AWS_ACCESS_KEY_ID)"), "{said}");
    Ok(())
}

/// A Secret in `default`, and an operator that takes its bucket from there.
struct BySecret {
    site: Site,
    name: String,
    values: BTreeMap<&'static str, String>,
}

impl BySecret {
    /// With the settings that work; the Secret is not created.
    async fn new() -> Result<Self> {
        let site = Site::new().await?;
        let values = BTreeMap::from([
            ("etcd-s3-endpoint", site.s3.endpoint()),
            ("etcd-s3-insecure", "true".into()),
            ("etcd-s3-bucket", site.bucket.name.clone()),
            ("etcd-s3-folder", FOLDER.into()),
            ("etcd-s3-access-key", site.s3.access_key.clone()),
            ("etcd-s3-secret-key", site.s3.secret_key.clone()),
            ("etcd-s3-region", String::new()),
        ]);
        Ok(Self { name: format!("s3-{}", unique()), site, values })
    }

    fn operator(&self) -> OperatorSetup {
        let setup = self.site.operator().switch("--etcd-s3").flag("--etcd-s3-bucket-lookup-type", "path");
        setup.flag("--etcd-s3-config-secret", &self.name).flag("--config-namespace", "default").flag("--etcd-s3-timeout", "5s")
    }

    /// Writes the Secret: the settings that work, with these in their place. None leaves one out.
    async fn write(&self, changes: &[(&'static str, Option<&str>)]) -> Result<()> {
        let mut values = self.values.clone();
        for (key, value) in changes {
            match value {
                Some(value) => _ = values.insert(key, (*value).to_owned()),
                None => _ = values.remove(key),
            }
        }
        let secrets: Api<Secret> = Api::namespaced(self.site.kubernetes.client.clone(), "default");
        let secret = Secret {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            string_data: Some(values.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
            ..Secret::default()
        };
        // Not merged: what is left out has to go.
        if secrets.get_opt(&self.name).await?.is_some() {
            secrets.replace(&self.name, &PostParams::default(), &secret).await?;
        } else {
            secrets.create(&PostParams::default(), &secret).await?;
        }
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.site.kubernetes.client.clone(), "default");
        secrets.delete(&self.name, &DeleteParams::default()).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_secret_that_is_wrong_is_said_until_it_is_right() -> Result<()> {
    let by = BySecret::new().await?;
    let site = &by.site;
    let name = site.name(1_700_000_000);
    site.put_ours(&name, snapshots::tiny(1)).await?;
    let mut operator = by.operator().start().await?;
    operator.ready().await?;
    // Not there yet.
    falls_ill(&mut operator, "settings", &by.name).await?;
    ensure!(errors(&operator, "s3").await? > 0, "a bucket that should be there and cannot be found is an error");
    by.write(&[]).await?;
    let wanted = expected([(&name, "plausible")]);
    bucket_becomes(&mut operator, site, &wanted).await?;
    is_well(&mut operator).await?;
    let before = states(&site.bucket_records().await?);

    let secret = format!("Secret default/{}", by.name);
    let absent = format!("bucket-that-is-not-there-{}", unique());
    // Each of these keys is made up; none of them may be seen anywhere.
    let (access, key, token) = ("AKIAUNSEENACCESSKEY", "unseen-secret-key", "unseen-session-token");
    let wrong_scheme = format!(
        "etcd-s3-endpoint: \"http://me.example\" has a scheme; write me.example, and etcd-s3-insecure: true for plain HTTP (from key etcd-s3-endpoint of {secret})"
    );
    let no_timeout =
        format!("etcd-s3-timeout: \"never\" is not a duration; write it like 5m or 90s (from key etcd-s3-timeout of {secret})");
    for (number, (part, words, changes)) in [
        ("settings", wrong_scheme.as_str(), vec![("etcd-s3-endpoint", Some("http://me.example"))]),
        ("settings", no_timeout.as_str(), vec![("etcd-s3-timeout", Some("never"))]),
        ("settings", "etcd-s3-bucket is not set", vec![("etcd-s3-bucket", None)]),
        ("settings", "its PEM holds no certificate in PEM", vec![("etcd-s3-endpoint-ca", Some("no certificate"))]),
        (
            "settings",
            "etcd-s3-secret-key is not set where the access key is",
            vec![("etcd-s3-secret-key", None), ("etcd-s3-access-key", Some(access))],
        ),
        ("bucket", "does not exist there; nothing is created", vec![("etcd-s3-bucket", Some(absent.as_str()))]),
        (
            "bucket",
            "the server does not know the access key",
            vec![("etcd-s3-access-key", Some(access)), ("etcd-s3-secret-key", Some(key))],
        ),
        ("bucket", "the secret key does not belong to the access key", vec![("etcd-s3-secret-key", Some(key))]),
        (
            "bucket",
            "was refused (403",
            vec![("etcd-s3-access-key", Some(access)), ("etcd-s3-secret-key", Some(key)), ("etcd-s3-session-token", Some(token))],
        ),
        ("bucket", "does not speak TLS; with plain HTTP set etcd-s3-insecure to true", vec![("etcd-s3-insecure", None)]),
        ("bucket", "proxy", vec![("etcd-s3-proxy", Some("http://me:unseen-password@127.0.0.1:9"))]),
    ]
    .into_iter()
    .enumerate()
    {
        by.write(&changes).await?;
        falls_ill(&mut operator, part, words).await?;
        let file = site.name_of_another(1_700_000_000 + i64::try_from(number)?);
        site.place(&file, &snapshots::tiny(1))?;
        operator
            .until("the local record", async |_| {
                ensure!(site.local_records().await?.len() == number + 1);
                Ok(())
            })
            .await?;
        ensure!(states(&site.bucket_records().await?) == before, "{words}: a record of the bucket was touched");
        by.write(&[]).await?;
        is_well(&mut operator).await?;
    }
    by.remove().await?;
    falls_ill(&mut operator, "settings", &by.name).await?;
    ensure!(states(&site.bucket_records().await?) == before);
    by.write(&[]).await?;
    is_well(&mut operator).await?;

    let everything = [operator.log(), operator.get("/metrics").await?.body, operator.get("/readyz").await?.body].concat();
    for hidden in [access, key, token, "unseen-password", &site.s3.access_key, &site.s3.secret_key] {
        ensure!(!everything.contains(hidden), "{hidden} can be seen");
    }
    ensure!(operator.get("/healthz").await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn another_bucket_has_its_own_records_and_the_old_ones_stay() -> Result<()> {
    let by = BySecret::new().await?;
    let site = &by.site;
    let other = site.s3.bucket(&format!("{}-other", site.bucket.name)).await?;
    let (first, second) = (site.name(1_700_000_000), site.name(1_700_000_001));
    site.put_ours(&first, snapshots::tiny(1)).await?;
    let cluster = site.kubernetes.cluster_id().await?;
    other.put_with(&site.key(&second), snapshots::tiny(2), &[("k3s-cluster-id", cluster.as_str())]).await?;
    by.write(&[]).await?;
    let mut operator = by.operator().start().await?;
    bucket_becomes(&mut operator, site, &expected([(&first, "plausible")])).await?;
    let before = states(&site.bucket_records().await?);
    by.write(&[("etcd-s3-bucket", Some(&other.name))]).await?;
    let of_other = async |operator: &mut Operator, count: usize| {
        operator
            .until("the records of the other bucket", async |_| {
                let records = site.kubernetes.bucket_records(&other.name).await?;
                ensure!(records.len() == count, "{records:?}");
                Ok(())
            })
            .await
    };
    of_other(&mut operator, 1).await?;
    bucket_passes(&mut operator, 2).await?;
    ensure!(states(&site.bucket_records().await?) == before, "the old bucket's records are nobody's business");
    // Not even when its objects go, and the new bucket's do.
    site.bucket.delete(&site.key(&first)).await?;
    other.delete(&site.key(&second)).await?;
    of_other(&mut operator, 0).await?;
    ensure!(states(&site.bucket_records().await?) == before);
    // Back again, and what went meanwhile is seen.
    by.write(&[]).await?;
    bucket_becomes(&mut operator, site, &BTreeMap::new()).await?;
    is_well(&mut operator).await?;
    let leases = value(&operator, "leader", &[]).await?;
    ensure!(leases == 1 && said(&operator, "standing for election") == 3, "each bucket has its own election");
    Ok(())
}

#[tokio::test]
async fn tls_is_trusted_as_the_settings_say() -> Result<()> {
    let mut by = BySecret::new().await?;
    let (ca, other) = (Ca::new("authority of the bucket")?, Ca::new("another authority")?);
    let tls = by.site.s3.proxied_with_tls(&ca)?;
    by.values.insert("etcd-s3-endpoint", tls.endpoint());
    by.values.remove("etcd-s3-insecure");
    let (site, map) = (&by.site, format!("ca-{}", by.name));
    let name = site.name(1_700_000_000);
    site.put_ours(&name, snapshots::tiny(1)).await?;
    let file = site.name_of_another(1_700_000_000);
    site.place(&file, &snapshots::tiny(1))?;
    let unknown = "nobody trusted has signed the certificate of";
    // Trusted as the system trusts: nobody knows this authority.
    by.write(&[("etcd-s3-endpoint-ca", Some(&other.cert_pem))]).await?;
    let mut operator = by.operator().start().await?;
    falls_ill(&mut operator, "bucket", unknown).await?;
    ensure!(errors(&operator, "s3").await? > 0);
    local_becomes(&mut operator, site, &expected([(&file, "whole")])).await?;
    ensure!(site.bucket_records().await?.is_empty());
    let wanted = expected([(&name, "plausible")]);
    by.write(&[("etcd-s3-endpoint-ca", Some(&ca.cert_pem))]).await?;
    bucket_becomes(&mut operator, site, &wanted).await?;
    is_well(&mut operator).await?;
    let before = states(&site.bucket_records().await?);

    by.write(&[("etcd-s3-endpoint-ca", Some(&ca.cert_pem)), ("etcd-s3-insecure", Some("true"))]).await?;
    falls_ill(&mut operator, "bucket", "if it speaks TLS, etcd-s3-insecure must not be true").await?;
    ensure!(states(&site.bucket_records().await?) == before);
    // The authority in a ConfigMap: not there, with garbage in it, with two of which one is right.
    by.write(&[("etcd-s3-endpoint-ca-name", Some(&map))]).await?;
    falls_ill(&mut operator, "settings", &map).await?;
    let maps: Api<ConfigMap> = Api::namespaced(site.kubernetes.client.clone(), "default");
    let data = |bundles: &[(&str, &str)]| Some(bundles.iter().map(|(key, pem)| ((*key).to_owned(), (*pem).to_owned())).collect());
    let metadata = ObjectMeta { name: Some(map.clone()), ..ObjectMeta::default() };
    let garbage = ConfigMap { metadata, data: data(&[("ca.crt", "garbage")]), ..ConfigMap::default() };
    maps.create(&PostParams::default(), &garbage).await?;
    falls_ill(&mut operator, "settings", &format!("value \"ca.crt\" of ConfigMap \"{map}\" holds no certificate in PEM")).await?;
    ensure!(states(&site.bucket_records().await?) == before);
    let bundles: Option<BTreeMap<String, String>> = data(&[("ca.crt", &other.cert_pem), ("b", &ca.cert_pem)]);
    let patch = serde_json::json!({ "data": bundles });
    maps.patch(&map, &PatchParams::default(), &Patch::Merge(patch)).await?;
    is_well(&mut operator).await?;
    bucket_passes(&mut operator, 1).await?;
    // Anybody at all.
    by.write(&[("etcd-s3-skip-ssl-verify", Some("true")), ("etcd-s3-endpoint-ca", Some(&other.cert_pem))]).await?;
    bucket_passes(&mut operator, 2).await?;
    is_well(&mut operator).await?;
    bucket_becomes(&mut operator, site, &wanted).await?;
    let shown = &site.bucket_records().await?[0].data["spec"]["s3"];
    ensure!(shown["skipSSLVerify"] == true, "{shown}");
    Ok(())
}
