use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::declared::{Kind, Metric, all};
use super::*;
use crate::snapshot::{Complete, FileName, Known, Manifest, Metadata, Owner, SnapshotFile, Verdict, Version};

const NOW: Timestamp = Timestamp::constant(1_763_800_000, 250_000_000);

/// One family of a scrape: type, help, and its series in order.
#[derive(Debug, Default, PartialEq)]
struct Family {
    kind: String,
    help: String,
    series: Vec<(String, String)>,
}

impl Family {
    fn value(&self, series: &str) -> &str {
        let found = self.series.iter().find(|(name, _)| name == series);
        found.unwrap_or_else(|| panic!("no {series} in {:?}", self.series)).1.as_str()
    }
}

/// Reads the text format as strictly as it is defined: HELP, then TYPE, then the series of that family; nothing twice.
fn parse(text: &str) -> BTreeMap<String, Family> {
    assert!(text.ends_with('\n'));
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!families.contains_key(name), "{name} has HELP twice");
            assert!(current.is_empty() || !families[&current].series.is_empty(), "{current} has no series");
            families.insert(name.into(), Family { help: help.into(), ..Family::default() });
            current = name.into();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, current, "TYPE does not follow HELP");
            let family = families.get_mut(name).unwrap();
            assert!(family.kind.is_empty() && family.series.is_empty(), "{name} has TYPE late or twice");
            family.kind = kind.into();
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            let family = families.get_mut(&current).unwrap();
            let of_family = match family.kind.as_str() {
                "histogram" => ["_bucket", "_sum", "_count"].iter().any(|suffix| name == format!("{current}{suffix}")),
                "counter" | "gauge" => name == current,
                other => panic!("{name} is of type {other:?}"),
            };
            assert!(of_family, "{name} stands under {current}");
            assert!(seen.insert(series.to_owned()), "{series} is there twice");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            family.series.push((series.into(), value.into()));
        }
    }
    families
}

fn scrape(metrics: &Metrics) -> BTreeMap<String, Family> {
    parse(&metrics.encode())
}

fn file(name: &str, size: u64, modified: i64, verdict: Option<Verdict>, manifest: Manifest) -> SnapshotFile {
    let known = verdict.map(|verdict| Known {
        verdict,
        manifest,
        cluster: None,
        node: None,
        token_hash: None,
        metadata: Metadata::Read(BTreeMap::new()),
    });
    let modified = Timestamp::from_second(modified).unwrap();
    SnapshotFile { name: FileName::new(name).unwrap(), size, modified, version: Version::remembered("1.2.3/-"), at_rest: true, known }
}

fn census() -> Census {
    let damaged = || Some(Verdict::Damaged("it ends after 3 of 4128 bytes".into()));
    let plain = Manifest::default;
    let files = [
        (file("a-cp1-1000", 10, 1005, Some(Verdict::Whole), plain()), Some(Owner::Ours)),
        (file("a-cp1-9000", 11, 1500, Some(Verdict::Whole), plain()), Some(Owner::Ours)),
        (file("a-cp1-1400", 12, 8000, Some(Verdict::Whole), plain()), Some(Owner::Ours)),
        (file("a-cp1-3000", 20, 3000, Some(Verdict::Whole), Manifest { quorum: Some(false), ..plain() }), Some(Owner::Ours)),
        (file("a-cp1-3001", 21, 3001, Some(Verdict::Whole), Manifest { corrupt: true, ..plain() }), Some(Owner::Ours)),
        (file("a-cp1-3002", 30, 3002, Some(Verdict::Plausible), plain()), Some(Owner::Ours)),
        (file("a-cp1-3003", 40, 3003, damaged(), plain()), Some(Owner::Ours)),
        (file("mine", 41, 3004, damaged(), plain()), Some(Owner::Unknown)),
        (file("a-cp1-3005", 50, 3005, None, plain()), Some(Owner::Unknown)),
        (file("a-cp1-3006", 60, 3006, Some(Verdict::Whole), plain()), Some(Owner::AnotherHistory)),
        (file("a-cp1-3007", 70, 3007, damaged(), plain()), Some(Owner::AnotherCluster)),
        (file("yours", 80, 3008, Some(Verdict::Whole), plain()), Some(Owner::Unknown)),
        (file("nobodys", 81, 3009, Some(Verdict::Plausible), plain()), None),
    ];
    let owners = files.iter().filter_map(|(file, owner)| Some((file.name.clone(), (*owner)?))).collect();
    let listing = files.into_iter().map(|(file, _)| (file.name.clone(), file)).collect();
    Census::of(&Complete::vouch(listing), &owners)
}

#[test]
fn each_file_is_counted_once_by_what_it_is_worth_and_whose_it_is() {
    let census = census();
    let counted: Vec<_> = census.by_kind.iter().map(|(kind, (files, bytes))| (kind.word(), *files, *bytes)).collect();
    let expected = [
        ("good", 3, 33),
        ("whole", 2, 41),
        ("plausible", 1, 30),
        ("damaged", 2, 81),
        ("unverified", 1, 50),
        ("another-history", 1, 60),
        ("another-cluster", 1, 70),
        ("unknown", 2, 161),
    ];
    assert_eq!(counted, expected);
    // Neither the name from the future (9000) nor the late copy (8000) is taken at its word.
    assert_eq!(census.newest_good, Timestamp::from_second(1500).ok());
}

#[test]
fn the_text_is_valid_and_has_all_that_is_declared_and_nothing_else() {
    let metrics = Metrics::new(None);
    metrics.leads(Leadership::Leader);
    metrics.holds(StorageKind::S3, &census());
    metrics.contested(true);
    metrics.saved(1, 2, 3);
    metrics.schedule(true, Timestamp::from_second(9).ok(), Some(Duration::from_mins(1)));
    metrics.backlog(Some((1, Timestamp::from_second(9).ok())));
    let families = scrape(&metrics);
    let declared: BTreeMap<_, _> = all().into_iter().map(|metric| (metric.name, metric)).collect();
    assert_eq!(declared.len(), all().len(), "a name is declared twice");
    assert_eq!(families.keys().map(String::as_str).collect::<Vec<_>>(), declared.keys().copied().collect::<Vec<_>>());
    for (name, family) in &families {
        let metric = &declared[name.as_str()];
        assert_eq!((family.kind.as_str(), family.help.replace("\\n", "\n").as_str()), (metric.kind.word(), metric.help));
        assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
        for (series, _) in &family.series {
            check_labels(metric, series);
        }
    }
}

fn check_labels(metric: &Metric, series: &str) {
    let inside = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
    let labels: BTreeMap<_, _> = inside.split(',').filter(|label| !label.is_empty()).map(|label| label.split_once('=').unwrap()).collect();
    let expected: BTreeSet<_> = metric.labels.iter().map(|label| label.name).collect();
    assert_eq!(labels.keys().copied().filter(|name| *name != "le").collect::<BTreeSet<_>>(), expected, "{series}");
    for label in metric.labels {
        let values = (label.values)();
        let value = labels[label.name].trim_matches('"');
        assert!(values.is_empty() || values.contains(&value), "{series} has a value that is not declared");
    }
}

#[test]
fn the_six_histograms_are_there_from_the_start_with_the_buckets_of_k3s_and_upwards() {
    let families = scrape(&Metrics::new(None));
    let bounds = [
        "0.008", "0.016", "0.032", "0.064", "0.128", "0.256", "0.512", "1.024", "2.048", "4.096", "8.192", "16.384", "32.768", "65.536",
        "131.072", "262.144", "524.288", "1048.576", "2097.152", "+Inf",
    ];
    for operation in ["reconcile", "reconcile_local", "reconcile_s3", "save", "save_local", "save_s3"] {
        let name = format!("etcd_snapshot_{operation}_duration_seconds");
        let mut expected = Vec::new();
        for status in ["error", "success"] {
            expected.extend(bounds.map(|bound| format!("{name}_bucket{{status=\"{status}\",le=\"{bound}\"}}")));
            expected.extend(["sum", "count"].map(|part| format!("{name}_{part}{{status=\"{status}\"}}")));
        }
        let family = &families[&name];
        assert_eq!(family.series.iter().map(|(series, _)| series.as_str()).collect::<Vec<_>>(), expected);
        assert!(family.series.iter().all(|(_, value)| value == "0"));
    }
}

#[test]
fn every_counter_starts_at_zero_with_all_its_series() {
    let families = scrape(&Metrics::new(None));
    for metric in all().iter().filter(|metric| metric.kind == Kind::Counter && metric.name.starts_with("etcd_")) {
        let series = &families[metric.name].series;
        assert_eq!(series.len(), metric.labels.iter().map(|label| (label.values)().len()).product::<usize>(), "{}", metric.name);
        assert!(series.iter().all(|(_, value)| value == "0"));
    }
}

#[test]
fn under_a_prefix_the_six_are_shown_once_more_and_nothing_else_is() {
    let (plain, prefixed) = (Metrics::new(None), Metrics::new(Some("k3s_")));
    for metrics in [&plain, &prefixed] {
        metrics.ended(Operation::ReconcileS3, Status::Error, Duration::from_millis(300), NOW);
    }
    let (plain, mut prefixed) = (scrape(&plain), scrape(&prefixed));
    for operation in Operation::ALL {
        let own = operation.metric().name;
        let again = prefixed.remove(&format!("k3s_{own}")).unwrap();
        assert_eq!((&again.kind, &again.help), (&plain[own].kind, &plain[own].help));
        let renamed: Vec<_> = plain[own].series.iter().map(|(series, value)| (format!("k3s_{series}"), value.clone())).collect();
        assert_eq!(again.series, renamed);
    }
    assert_eq!(prefixed.keys().collect::<Vec<_>>(), plain.keys().collect::<Vec<_>>());
}

#[test]
fn an_operation_is_timed_by_its_status_and_only_a_success_is_one() {
    let metrics = Metrics::new(None);
    metrics.ended(Operation::ReconcileLocal, Status::Success, Duration::from_millis(20), NOW);
    metrics.ended(Operation::Save, Status::Error, Duration::from_secs(3), NOW);
    let families = scrape(&metrics);
    let local = &families["etcd_snapshot_reconcile_local_duration_seconds"];
    assert_eq!(local.value("etcd_snapshot_reconcile_local_duration_seconds_count{status=\"success\"}"), "1");
    assert_eq!(local.value("etcd_snapshot_reconcile_local_duration_seconds_sum{status=\"success\"}"), "0.02");
    assert_eq!(local.value("etcd_snapshot_reconcile_local_duration_seconds_bucket{status=\"success\",le=\"0.016\"}"), "0");
    assert_eq!(local.value("etcd_snapshot_reconcile_local_duration_seconds_bucket{status=\"success\",le=\"0.032\"}"), "1");
    assert_eq!(local.value("etcd_snapshot_reconcile_local_duration_seconds_count{status=\"error\"}"), "0");
    let save = &families["etcd_snapshot_save_duration_seconds"];
    assert_eq!(save.value("etcd_snapshot_save_duration_seconds_count{status=\"error\"}"), "1");
    let last = "etcd_snapshot_last_success_timestamp_seconds";
    let expected = [("reconcile", "0"), ("reconcile_local", "1763800000.25")];
    let expected = expected.map(|(operation, value)| (format!("{last}{{operation=\"{operation}\"}}"), value.to_owned()));
    assert_eq!(families[last].series, expected);
}

#[test]
fn a_success_from_before_the_start_is_shown_and_takes_nothing_from_a_newer_one() {
    let metrics = Metrics::new(None);
    let last = "etcd_snapshot_last_success_timestamp_seconds";
    let shown = || {
        let families = scrape(&metrics);
        let series = families[last].series.iter().find(|(name, _)| *name == format!("{last}{{operation=\"save_local\"}}"));
        series.map(|(_, value)| value.clone())
    };
    assert_eq!(shown(), None);
    let before = NOW - jiff::SignedDuration::from_secs(60);
    metrics.succeeded(Operation::SaveLocal, before);
    assert_eq!(shown().as_deref(), Some("1763799940.25"));
    metrics.ended(Operation::SaveLocal, Status::Success, Duration::ZERO, NOW);
    metrics.succeeded(Operation::SaveLocal, before);
    assert_eq!(shown().as_deref(), Some("1763800000.25"));
}

#[test]
fn the_backlog_is_shown_while_there_is_a_bucket() {
    let metrics = Metrics::new(None);
    let shown = || {
        let families = scrape(&metrics);
        ["files", "oldest_timestamp_seconds"].map(|what| families.contains_key(&format!("etcd_snapshot_upload_backlog_{what}")))
    };
    assert_eq!(shown(), [false, false]);
    metrics.backlog(Some((2, None)));
    assert_eq!(shown(), [true, true]);
    metrics.backlog(None);
    assert_eq!(shown(), [false, false]);
}

#[test]
fn the_gauges_of_a_bucket_are_shown_while_its_leader_leads() {
    let metrics = Metrics::new(None);
    let of_bucket = |metrics: &Metrics| -> Vec<String> {
        let families = scrape(metrics);
        let series = families.values().filter(|family| family.kind == "gauge").flat_map(|family| &family.series);
        series.filter(|(name, _)| name.contains("\"s3\"") || name.contains("\"reconcile_s3\"")).map(|(name, _)| name.clone()).collect()
    };
    let leader =
        |metrics: &Metrics| scrape(metrics).get("etcd_snapshot_leader").map(|family| family.value("etcd_snapshot_leader").to_owned());
    assert_eq!(leader(&metrics), None);

    metrics.leads(Leadership::Follower);
    metrics.holds(StorageKind::S3, &census());
    metrics.ended(Operation::ReconcileS3, Status::Success, Duration::ZERO, NOW);
    assert_eq!((leader(&metrics), of_bucket(&metrics)), (Some("0".into()), Vec::new()));

    metrics.leads(Leadership::Leader);
    let success = "etcd_snapshot_last_success_timestamp_seconds{operation=\"reconcile_s3\"}";
    assert_eq!((leader(&metrics), of_bucket(&metrics)), (Some("1".into()), vec![success.to_owned()]));
    assert_eq!(scrape(&metrics)["etcd_snapshot_last_success_timestamp_seconds"].value(success), "0");
    metrics.ended(Operation::ReconcileS3, Status::Success, Duration::ZERO, NOW);
    metrics.holds(StorageKind::S3, &census());
    metrics.leads(Leadership::Leader);
    assert_eq!(of_bucket(&metrics).len(), 1 + 1 + 2 * FileKind::ALL.len());
    assert!(scrape(&metrics)["etcd_snapshot_last_success_timestamp_seconds"].value(success) != "0");

    metrics.holds(StorageKind::Local, &census());
    metrics.leads(Leadership::Follower);
    metrics.holds(StorageKind::S3, &census());
    assert_eq!((leader(&metrics), of_bucket(&metrics)), (Some("0".into()), Vec::new()));
    let families = scrape(&metrics);
    assert_eq!(families["etcd_snapshot_files"].value("etcd_snapshot_files{kind=\"good\",storage=\"local\"}"), "3");
    assert_eq!(families["etcd_snapshot_bytes"].value("etcd_snapshot_bytes{kind=\"damaged\",storage=\"local\"}"), "81");
    // What was counted stays counted: a counter that vanishes is a reset.
    let s3 = &families["etcd_snapshot_reconcile_s3_duration_seconds"];
    assert_eq!(s3.value("etcd_snapshot_reconcile_s3_duration_seconds_count{status=\"success\"}"), "2");

    metrics.leads(Leadership::NoBucket);
    assert_eq!(leader(&metrics), None);
}

#[test]
fn a_storage_without_a_good_snapshot_says_so_and_one_never_listed_says_nothing() {
    let metrics = Metrics::new(None);
    assert!(!scrape(&metrics).contains_key("etcd_snapshot_last_good_timestamp_seconds"));
    metrics.holds(StorageKind::Local, &census());
    let last = "etcd_snapshot_last_good_timestamp_seconds";
    assert_eq!(scrape(&metrics)[last].series, [(format!("{last}{{storage=\"local\"}}"), "1500".into())]);
    metrics.holds(StorageKind::Local, &Census::default());
    let families = scrape(&metrics);
    assert_eq!(families[last].series, [(format!("{last}{{storage=\"local\"}}"), "0".into())]);
    assert_eq!(families["etcd_snapshot_files"].value("etcd_snapshot_files{kind=\"good\",storage=\"local\"}"), "0");
}

#[test]
fn what_is_told_is_what_is_shown() {
    let metrics = Metrics::new(None);
    metrics.beat(NOW);
    metrics.crd(false);
    metrics.stepped(Action::Write, Outcome::Vetoed);
    metrics.vetoed(Veto::K3sAtWork);
    metrics.requested(S3Operation::named("HeadObject"), S3Outcome::named("not_found"));
    metrics.requested(S3Operation::named("a new one"), S3Outcome::named("a new one"));
    let families = scrape(&metrics);
    let value = |series: &str| families[series.split('{').next().unwrap()].value(series).to_owned();
    assert_eq!(value("etcd_snapshot_last_beat_timestamp_seconds"), "1763800000.25");
    assert_eq!(value("etcd_snapshot_crd_missing"), "1");
    assert_eq!(value("etcd_snapshot_actions_total{action=\"write\",outcome=\"vetoed\"}"), "1");
    assert_eq!(value("etcd_snapshot_vetoes_total{kind=\"k3s-at-work\"}"), "1");
    assert_eq!(value("etcd_snapshot_s3_requests_total{operation=\"HeadObject\",outcome=\"not_found\"}"), "1");
    assert_eq!(value("etcd_snapshot_s3_requests_total{operation=\"Other\",outcome=\"error\"}"), "1");
    metrics.crd(true);
    assert_eq!(scrape(&metrics)["etcd_snapshot_crd_missing"].value("etcd_snapshot_crd_missing"), "0");
}

const BEGIN: &str = "<!-- The tables are made from src/metrics: UPDATE=1 cargo test --locked --lib metrics:: -->\n";
const END: &str = "<!-- End of the tables. -->\n";

#[test]
fn the_documentation_agrees_with_the_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("docs/metrics.md has lost the comment that begins its tables");
    let (_, after) = rest.split_once(END).expect("docs/metrics.md has lost the comment that ends its tables");
    let fresh = format!("{before}{BEGIN}\n{}\n{END}{after}", tables());
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &fresh).unwrap();
    } else {
        assert!(page == fresh, "docs/metrics.md is not what the code says; UPDATE=1 cargo test --locked --lib metrics:: writes it anew");
    }
}

fn tables() -> String {
    let mut text = String::from("| Metric | Type | Labels | What it says |\n| --- | --- | --- | --- |\n");
    for metric in all() {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{}`", label.name)).collect();
        writeln!(text, "| `{}` | {} | {} | {} |", metric.name, metric.kind.word(), labels.join(", "), metric.help).unwrap();
    }
    text.push_str("\n| Label | Of | Values |\n| --- | --- | --- |\n");
    let mut labels: Vec<(&str, Vec<&str>, Vec<String>)> = Vec::new();
    for metric in all() {
        for label in metric.labels {
            let (values, of) = ((label.values)(), format!("`{}`", metric.name));
            match labels.iter_mut().find(|(name, same, _)| *name == label.name && *same == values) {
                Some((_, _, metrics)) => metrics.push(of),
                None => labels.push((label.name, values, vec![of])),
            }
        }
    }
    for (name, values, metrics) in labels {
        let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
        let values = if values.is_empty() { "one, of this build".into() } else { values.join(", ") };
        writeln!(text, "| `{name}` | {} | {values} |", metrics.join(", ")).unwrap();
    }
    text
}
