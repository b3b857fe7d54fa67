//! Bad days of the bucket: what the server says instead of a listing, and what it does not say at all.

use anyhow::{Result, ensure};
use e2e::operator::{Operator, OperatorSetup};
use e2e::proxy::{Fault, FaultProxy, Handle, On, Reply};
use e2e::site::{FOLDER, Site};
use e2e::snapshots;

use crate::common::{complains, complaints};
use crate::invariants::{Left, as_found, invariants};
use crate::look::{bucket_becomes, bucket_passes, errors, expected, falls_ill, is_well, local_becomes, shown, states, value, warnings};
use crate::retention::{hours_ago, put_good, whole};
use crate::uploads::Uploading;

/// A bucket with three objects behind a proxy, and an operator that has recorded them.
struct Spoiled {
    site: Site,
    s3: FaultProxy,
    setup: OperatorSetup,
    operator: Operator,
    records: Vec<(String, String)>,
    /// How many snapshots the directory has.
    local: i64,
}

impl Spoiled {
    async fn start() -> Result<Self> {
        let site = Site::new().await?;
        let s3 = site.s3.proxied()?;
        for number in 0..3 {
            site.put_ours(&site.name(number), snapshots::tiny(1)).await?;
        }
        let setup = site.operator_with_bucket().flag("--etcd-s3-endpoint", s3.endpoint()).flag("--etcd-s3-timeout", "3s");
        let mut operator = setup.start().await?;
        bucket_becomes(&mut operator, &site, &expected((0..3).map(|number| (site.name(number), "plausible")))).await?;
        is_well(&mut operator).await?;
        let records = states(&site.bucket_records().await?);
        Ok(Self { site, s3, setup, operator, records, local: 0 })
    }

    /// While rules hold: the bucket is ill with these words, its passes fail, no record of it was touched, and the directory's go on.
    async fn is_ill(&mut self, words: &str) -> Result<()> {
        let before = errors(&self.operator, "s3").await?;
        falls_ill(&mut self.operator, "bucket", words).await?;
        bucket_passes(&mut self.operator, 1).await?;
        ensure!(errors(&self.operator, "s3").await? > before, "the pass should count as an error");
        self.local_goes_on().await?;
        self.is_untouched(words).await
    }

    async fn local_goes_on(&mut self) -> Result<()> {
        self.site.place(&self.site.name_of_another(self.local), &snapshots::tiny(1))?;
        self.local += 1;
        let wanted = expected((0..self.local).map(|number| (self.site.name_of_another(number), "whole")));
        local_becomes(&mut self.operator, &self.site, &wanted).await
    }

    async fn is_untouched(&self, when: &str) -> Result<()> {
        let now = states(&self.site.bucket_records().await?);
        ensure!(now == self.records, "{when}: {:?} became {now:?}", self.records);
        Ok(())
    }

    async fn recovers(&mut self, rules: Vec<Handle>) -> Result<()> {
        rules.into_iter().for_each(Handle::remove);
        is_well(&mut self.operator).await
    }

    /// An object that was deleted by hand meanwhile loses its record only now.
    async fn forgets_what_is_gone(&mut self, gone: i64) -> Result<()> {
        let left = (0..3).filter(|number| *number != gone).map(|number| (self.site.name(number), "plausible"));
        bucket_becomes(&mut self.operator, &self.site, &expected(left)).await?;
        self.records = states(&self.site.bucket_records().await?);
        Ok(())
    }

    /// Nothing that must not happen did, and the bucket holds exactly these of ours.
    async fn ends_well(mut self, left: &[String]) -> Result<()> {
        ensure!(value(&self.operator, "vetoes_total", &[]).await? == 0, "a step had to be stopped at the last moment");
        ensure!(self.operator.get("/healthz").await?.status == 200, "a restart does not help against a bucket");
        let local: Vec<String> = (0..self.local).map(|number| self.site.name_of_another(number)).collect();
        is_well(&mut self.operator).await?;
        invariants(self.operator, &self.setup, &self.site, &Left::new(&local, left)).await
    }

    /// The first three objects, but for one that was deleted.
    fn left(&self, gone: Option<i64>) -> Vec<String> {
        (0..3).filter(|number| Some(*number) != gone).map(|number| self.site.name(number)).collect()
    }
}

fn objects() -> On {
    On::list_objects().query_is("prefix", &format!("{FOLDER}/"))
}

#[tokio::test]
async fn a_server_that_refuses_is_said_and_costs_no_record() -> Result<()> {
    let mut spoiled = Spoiled::start().await?;
    for (status, code, words, outcome) in [
        (403, "AccessDenied", "was refused (403 AccessDenied): the credentials need s3:ListBucket on the bucket", "denied"),
        (400, "ExpiredToken", "was refused (400 ExpiredToken): the credentials have expired", "denied"),
        (404, "NoSuchBucket", "does not exist there; nothing is created, make it or correct etcd-s3-bucket", "not_found"),
        (301, "PermanentRedirect", "the bucket is in another region than us-east-1", "error"),
        (403, "RequestTimeTooSkewed", "the clock of this machine and the server's are too far apart", "denied"),
        (503, "SlowDown", "was put off by the server (503 SlowDown), several times", "throttled"),
        (500, "InternalError", "failed in the server (500 InternalError)", "error"),
    ] {
        let rule = spoiled.s3.when(On::list_objects(), Fault::s3(status, code));
        if status == 404 {
            spoiled.site.bucket.delete(&spoiled.site.key(&spoiled.site.name(0))).await?;
        }
        spoiled.is_ill(words).await?;
        let counted = value(&spoiled.operator, "s3_requests_total", &[("operation", "ListObjectsV2"), ("outcome", outcome)]).await?;
        ensure!(counted > 0, "{code} does not count as {outcome}: {:?}", spoiled.operator.metrics().await?);
        spoiled.recovers(vec![rule]).await?;
        if status == 404 {
            spoiled.forgets_what_is_gone(0).await?;
        }
    }
    let left = spoiled.left(Some(0));
    spoiled.ends_well(&left).await
}

/// The text of one object in a listing.
fn entry(listing: &str, name: &str) -> Option<String> {
    let mut entries = listing.split("<Contents>").skip(1).filter_map(|rest| rest.split("</Contents>").next());
    entries.find(|entry| entry.contains(&format!("/{name}</Key>"))).map(|entry| format!("<Contents>{entry}</Contents>"))
}

/// Makes `<KeyCount>` right again.
fn counted(listing: &str) -> String {
    let count = listing.matches("<Contents>").count() + listing.matches("<CommonPrefixes>").count();
    match (listing.split_once("<KeyCount>"), listing.split_once("</KeyCount>")) {
        (Some((before, _)), Some((_, after))) => format!("{before}<KeyCount>{count}</KeyCount>{after}"),
        _ => listing.to_owned(),
    }
}

/// Says that there is another page, behind the token `more`.
fn with_more(listing: &str) -> String {
    let token = "<NextContinuationToken>more</NextContinuationToken>";
    listing.replace("<IsTruncated>false</IsTruncated>", &format!("<IsTruncated>true</IsTruncated>{token}"))
}

#[tokio::test]
async fn a_listing_that_cannot_be_believed_costs_no_record() -> Result<()> {
    let mut spoiled = Spoiled::start().await?;
    let html = "<html><head><title>Sign in</title></head><body>Sign in</body></html>";
    let page = |kind: &str, body: &str| Fault::Reply(Reply::status(200).header("Content-Type", kind).body(body));
    let [first, second] = [0, 1].map(|number| spoiled.site.name(number));
    let (gone, other) = (first.clone(), second.clone());
    let without = move |listing: &str| counted(&entry(listing, &gone).map_or(listing.to_owned(), |entry| listing.replace(&entry, "")));
    let hides = without.clone();
    for (words, rules) in [
        ("brought an answer that is not S3's", vec![(On::list_objects(), page("text/html", html))]),
        (
            "brought an answer that is not S3's",
            vec![(On::list_objects(), page("application/xml", "<?xml version=\"1\"?><Other><Thing/></Other>"))],
        ),
        ("brought an answer that is not S3's", vec![(On::list_objects(), Fault::rewrite(|body| body[..body.len() / 2].to_owned()))]),
        ("broke", vec![(On::list_objects(), Fault::CutBody(300))]),
        ("broke", vec![(On::list_objects(), Fault::Drop)]),
        (
            "failed in the server (500)",
            vec![
                (objects().without_query("continuation-token"), Fault::rewrite(move |body| with_more(&hides(body)))),
                (objects().query("continuation-token"), Fault::status(500)),
            ],
        ),
        ("a page brings nothing new", vec![(objects(), Fault::rewrite(with_more))]),
        (
            "shows another number of keys than it says",
            vec![(objects(), Fault::rewrite(|body| body.replacen("<KeyCount>", "<KeyCount>1", 1)))],
        ),
        // The sidecars' listing alone.
        ("failed in the server (500)", vec![(On::list_objects().query_is("prefix", "folder/.metadata/"), Fault::status(500))]),
        (
            "keys of other folders, which are left alone",
            vec![(
                objects(),
                Fault::rewrite(move |body| {
                    let entry = entry(body, &other).unwrap_or_default();
                    let outside = entry.replace("<Key>folder/", "<Key>elsewhere/");
                    counted(&body.replacen(&entry, &format!("{entry}{outside}"), 1))
                }),
            )],
        ),
    ] {
        let rules: Vec<Handle> = rules.into_iter().map(|(on, fault)| spoiled.s3.when(on, fault)).collect();
        spoiled.is_ill(words).await?;
        ensure!(rules.iter().all(|rule| rule.hits() > 0), "{words}: a rule was never used");
        spoiled.recovers(rules).await?;
    }

    // The same key twice is one object.
    let twice = move |body: &str| {
        let entry = entry(body, &second).unwrap_or_default();
        counted(&body.replacen(&entry, &format!("{entry}{entry}"), 1))
    };
    let rule = spoiled.s3.when(objects(), Fault::rewrite(twice));
    bucket_passes(&mut spoiled.operator, 3).await?;
    spoiled.is_untouched("the same key twice").await?;
    ensure!(rule.hits() > 0);
    rule.remove();
    // A listing that hides an object, which itself says that it is there.
    let rule = spoiled.s3.when(objects(), Fault::rewrite(without));
    bucket_passes(&mut spoiled.operator, 3).await?;
    spoiled.is_untouched("an object that the listing hides").await?;
    let asked = value(&spoiled.operator, "actions_total", &[("action", "forget"), ("outcome", "stale")]).await?;
    ensure!(asked > 0 && rule.hits() > 0, "it was never asked for");
    rule.remove();
    let left = spoiled.left(None);
    spoiled.ends_well(&left).await
}

#[tokio::test]
async fn a_silent_bucket_stops_nothing_else_and_comes_back_by_itself() -> Result<()> {
    let mut spoiled = Spoiled::start().await?;
    spoiled.s3.black_hole();
    spoiled.site.bucket.delete(&spoiled.site.key(&spoiled.site.name(0))).await?;
    for _ in 0..3 {
        spoiled.local_goes_on().await?;
    }
    spoiled.is_ill("had no answer within etcd-s3-timeout").await?;
    ensure!(value(&spoiled.operator, "s3_requests_total", &[("outcome", "timeout")]).await? > 0);
    // A connection that is refused is another reason, and said as one.
    spoiled.s3.cut();
    spoiled.is_ill("failed: ").await?;
    ensure!(value(&spoiled.operator, "s3_requests_total", &[("outcome", "unreachable")]).await? > 0);
    ensure!(value(&spoiled.operator, "leader", &[]).await? == 1, "the bucket's trouble is no reason not to lead");
    spoiled.s3.restore();
    spoiled.forgets_what_is_gone(0).await?;
    spoiled.recovers(Vec::new()).await?;

    // Told to stop while the bucket is silent, it does not wait for it.
    spoiled.s3.black_hole();
    spoiled.is_ill("had no answer within etcd-s3-timeout").await?;
    ensure!(spoiled.operator.terminate().await?.success());
    spoiled.is_untouched("the end").await?;
    spoiled.s3.restore();
    spoiled.operator = spoiled.setup.start().await?;
    let left = spoiled.left(Some(0));
    spoiled.ends_well(&left).await
}

#[tokio::test]
async fn one_object_that_may_not_be_read_costs_only_itself() -> Result<()> {
    let mut spoiled = Spoiled::start().await?;
    let (locked, open, late) = (spoiled.site.name(10), spoiled.site.name(11), spoiled.site.name(12));
    let known: Vec<String> = (0..3).map(|number| spoiled.site.name(number)).collect();
    let wanted = |more: &[&String]| expected(known.iter().chain(more.iter().copied()).map(|name| (name, "plausible")));
    let rules = vec![
        spoiled.s3.when(On::method("HEAD").path(&format!("*/{locked}")), Fault::status(403)),
        // One with a record already: what cannot be asked about stays as it was.
        spoiled.s3.when(On::method("HEAD").path(&format!("*/{}", known[0])), Fault::status(403)),
        spoiled.s3.when(On::get().path(&format!("*/.metadata/{late}")), Fault::status(403)),
    ];
    spoiled.site.bucket.delete(&spoiled.site.key(&known[0])).await?;
    spoiled.site.bucket.put(&spoiled.site.key(&format!(".metadata/{late}")), r#"{"a":"b"}"#).await?;
    for name in [&locked, &open, &late] {
        spoiled.site.put_ours(name, snapshots::tiny(2)).await?;
    }
    bucket_becomes(&mut spoiled.operator, &spoiled.site, &wanted(&[&open])).await?;
    let words = "was refused (403): the credentials need s3:GetObject on the objects of the folder";
    falls_ill(&mut spoiled.operator, "bucket", words).await?;
    ensure!(errors(&spoiled.operator, "s3").await? > 0);
    ensure!(value(&spoiled.operator, "files", &[("storage", "s3"), ("kind", "unverified")]).await? == 2);
    ensure!(shown(&spoiled.site.bucket_records().await?)? == wanted(&[&open]), "its record went without an answer");
    ensure!(warnings(&spoiled.operator, words) > 0);
    rules.into_iter().for_each(Handle::remove);
    let all = wanted(&[&locked, &open, &late]).into_iter().filter(|(name, _)| *name != known[0]).collect();
    bucket_becomes(&mut spoiled.operator, &spoiled.site, &all).await?;
    let left = [&known[1..], &[locked, open, late]].concat();
    spoiled.ends_well(&left).await
}

#[tokio::test]
async fn a_removal_that_is_cut_between_object_and_sidecar_is_finished_and_no_other_sidecar_goes() -> Result<()> {
    let up = Uploading::new().await?;
    let site = &up.site;
    up.age();
    let mut objects = Vec::new();
    for hours in [28, 27, 26, 25] {
        objects.push(site.name(hours_ago(hours)?));
        put_good(site, &site.bucket, &site.node, &objects[objects.len() - 1], &snapshots::tiny(hours)).await?;
    }
    // Sidecars alone, of which nobody knows where their objects are.
    let cluster = site.kubernetes.cluster_id().await?;
    let alone = [site.name(hours_ago(30)?), site.name(hours_ago(29)?)].map(|name| site.key(&format!(".metadata/{name}")));
    site.bucket.put_with(&alone[0], "{}", &[("k3s-cluster-id", cluster.as_str())]).await?;
    site.bucket.put(&alone[1], "{}").await?;
    let foreign = as_found(&site.bucket, alone).await?;
    // Of one the sidecar may not be deleted; of the other nobody hears that the object is.
    let kept = up.s3.when(up.sidecar("DELETE", &objects[0]), Fault::s3(403, "AccessDenied"));
    let unheard = up.s3.when(up.object("DELETE", &objects[1]), Fault::LoseAnswer);
    let setup = up.setup.clone().flag("--etcd-s3-retention", "2");
    let mut operator = setup.start().await?;
    complains(&mut operator, r#""about":"removing sidecars whose objects are gone""#).await?;
    bucket_becomes(&mut operator, site, &whole(&objects[2..])).await?;
    let sidecar = |name: &String| site.key(&format!(".metadata/{name}"));
    operator
        .until("the other sidecar to be gone", async |_| {
            let keys = site.bucket.keys().await?;
            ensure!(!keys.contains(&sidecar(&objects[1])), "{keys:#?}");
            Ok(())
        })
        .await?;
    bucket_passes(&mut operator, 2).await?;
    ensure!(unheard.hits() > 0 && site.bucket.keys().await?.contains(&sidecar(&objects[0])));
    let said = complaints(&operator, "removing sidecars whose objects are gone");
    ensure!(said.len() == 1 && said[0].contains("s3:DeleteObject"), "{said:#?}");
    kept.remove();
    operator
        .until("both sidecars to be gone", async |_| {
            let keys = site.bucket.keys().await?;
            ensure!(!objects[..2].iter().any(|name| keys.contains(&sidecar(name))), "{keys:#?}");
            Ok(())
        })
        .await?;
    is_well(&mut operator).await?;
    invariants(operator, &setup, site, &Left::new(&[], &objects[2..]).foreign(foreign)).await
}
