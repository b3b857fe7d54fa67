//! This process's own CPU time, memory, file descriptors and start, under the names that every Prometheus client uses.
//!
//! In: five files of `/proc`. Out: metrics; what cannot be read is left out.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge};

use super::declared::{self, Kind, Metric};

/// Clock ticks a second in `/proc`: `USER_HZ`, 100 on every architecture that Rust's Linux targets name.
const TICKS: f64 = 100.0;

/// Reads `/proc` at each scrape.
#[derive(Clone)]
pub(super) struct Process {
    descriptions: Vec<Desc>,
}

const METRICS: [Metric; 6] = [
    declared::PROCESS_CPU,
    declared::PROCESS_RESIDENT,
    declared::PROCESS_VIRTUAL,
    declared::PROCESS_OPEN_FDS,
    declared::PROCESS_MAX_FDS,
    declared::PROCESS_START,
];

impl Process {
    pub(super) fn new() -> Self {
        Self {
            descriptions: METRICS
                .iter()
                .flat_map(|metric| collector(*metric, 0.0).desc().into_iter().cloned().collect::<Vec<_>>())
                .collect(),
        }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (stat, status) = (read("/proc/self/stat"), read("/proc/self/status"));
        let values = [
            cpu_seconds(&stat),
            kilobytes(&status, "VmRSS:"),
            kilobytes(&status, "VmSize:"),
            open_fds(),
            max_fds(&read("/proc/self/limits")),
            start_time(&stat, &read("/proc/stat")),
        ];
        let known = METRICS.into_iter().zip(values).filter_map(|(metric, value)| Some((metric, value?)));
        known.flat_map(|(metric, value)| collector(metric, value).collect()).collect()
    }
}

fn collector(metric: Metric, value: f64) -> Box<dyn Collector> {
    let valid = "a declared metric is valid";
    if metric.kind == Kind::Counter {
        let counter = Counter::with_opts(metric.opts()).expect(valid);
        counter.inc_by(value);
        Box::new(counter)
    } else {
        let gauge = Gauge::with_opts(metric.opts()).expect(valid);
        gauge.set(value);
        Box::new(gauge)
    }
}

/// The field of `/proc/<pid>/stat` with this number, as proc(5) counts them; the name before it may hold anything.
fn field(stat: &str, number: usize) -> Option<f64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(number - 3)?.trim().parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((field(stat, 14)? + field(stat, 15)?) / TICKS)
}

fn start_time(stat: &str, system: &str) -> Option<f64> {
    let booted: f64 = system.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + field(stat, 22)? / TICKS)
}

fn kilobytes(status: &str, key: &str) -> Option<f64> {
    let value = status.lines().find_map(|line| line.strip_prefix(key))?;
    value.trim().strip_suffix(" kB")?.parse::<f64>().ok().map(|kilobytes| kilobytes * 1024.0)
}

fn max_fds(limits: &str) -> Option<f64> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?;
    if soft == "unlimited" { Some(f64::INFINITY) } else { soft.parse().ok() }
}

fn open_fds() -> Option<f64> {
    // One of them is the descriptor of this very listing.
    let open = fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(f64::from(u32::try_from(open).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 0 0 0 250 51 0 0 20 0 9 0 12345 1000 20 18446744073709551615\n";

    #[test]
    fn a_process_is_read_whatever_it_is_called() {
        assert_eq!(cpu_seconds(STAT), Some(3.01));
        assert_eq!(start_time(STAT, "cpu 1 2\nbtime 1700000000\nprocesses 5\n"), Some(1_700_000_123.45));
        assert_eq!(kilobytes("Name:\tx\nVmSize:\t  300 kB\nVmRSS:\t    20 kB\n", "VmRSS:"), Some(20480.0));
        let limits = "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 1048576              files\n";
        assert_eq!(max_fds(limits), Some(1024.0));
        assert_eq!(max_fds("Max open files            unlimited            unlimited            files\n"), Some(f64::INFINITY));
    }

    #[test]
    fn what_cannot_be_read_is_left_out() {
        assert_eq!((cpu_seconds(""), start_time(STAT, ""), kilobytes("VmRSS:\tmany\n", "VmRSS:"), max_fds("")), (None, None, None, None));
    }

    #[test]
    fn this_process_has_all_of_them() {
        let families = Process::new().collect();
        assert_eq!(families.len(), METRICS.len());
        let value = |name: &str| {
            let family = families.iter().find(|family| family.name() == name).unwrap();
            family.get_metric()[0].get_gauge().get_value()
        };
        assert!(value("process_resident_memory_bytes") > 100_000.0);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 1.0 && value("process_open_fds") < value("process_max_fds"));
        assert!(value("process_start_time_seconds") > 1_600_000_000.0);
    }
}
