//! What all verbs by hand have in common: the flags that K3s has, the settings, the log, and how signals end them.
//!
//! In: the common part of a command line, and what the verb does. Out: its exit code. Nothing is done after a signal but what makes an
//! end that can be taken up again.

use std::fs;
use std::future::pending;
use std::io;
use std::process;
use std::time::Duration;

use clap::{ArgAction, Args};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::trouble::Trouble;
use super::{FAILED, USAGE, terminal};
use crate::config::{ApiServer, HandFlags, HandSettings, load_by_hand};
use crate::log;
use crate::snapshot::ClusterId;

const HANGUP: u8 = 1;
const INTERRUPT: u8 = 2;
const TERMINATE: u8 = 15;

/// How long a verb may take to end after a signal.
const GRACE: Duration = Duration::from_secs(5);

/// The part of the command line that every verb by hand has.
#[derive(Debug, Args)]
pub struct Hand {
    #[command(flatten)]
    settings: HandFlags,
    #[command(flatten)]
    api: ApiServer,
    /// Say more of what is done, on standard error; twice for everything.
    #[arg(long, short, action = ArgAction::Count, help_heading = "Output")]
    verbose: u8,
    /// Say everything, as -vv.
    #[arg(long, help_heading = "Output")]
    debug: bool,
    /// Accepted for K3s's sake: the log goes to standard error.
    #[arg(long, short, value_name = "FILE", hide = true)]
    log: Option<Ignored>,
    /// Accepted for K3s's sake: the log goes to standard error anyway.
    #[arg(long, num_args = 0..=1, require_equals = true, hide = true, default_missing_value = "true", value_name = "true|false")]
    alsologtostderr: Option<Ignored>,
    /// Accepted for K3s's sake: no server is asked to do the work.
    #[arg(long, short = 't', value_name = "TOKEN", hide = true)]
    etcd_token: Option<Ignored>,
    /// Accepted for K3s's sake: no server is asked to do the work.
    #[arg(long, short = 's', value_name = "URL", hide = true)]
    etcd_server: Option<Ignored>,
}

/// A value that does nothing here, and is not kept: it may be a token.
#[derive(Debug, Clone, Copy)]
struct Ignored;

impl std::str::FromStr for Ignored {
    type Err = std::convert::Infallible;

    fn from_str(_: &str) -> Result<Self, Self::Err> {
        Ok(Self)
    }
}

impl Hand {
    /// What was given and does nothing here, each with the reason.
    fn without_effect(&self) -> Vec<&'static str> {
        let server = "--etcd-token and --etcd-server do nothing here: the work is done by this process, and not by a server of K3s";
        let log = "--log and --alsologtostderr do nothing here: the log goes to standard error";
        [
            (self.etcd_token.is_some() || self.etcd_server.is_some()).then_some(server),
            (self.log.is_some() || self.alsologtostderr.is_some()).then_some(log),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// With S3 turned on: for a verb that is about the bucket alone.
    pub fn with_bucket(mut self) -> Self {
        self.settings.0 = self.settings.0.with("etcd-s3", "true");
        self
    }
}

/// Does what a verb does, with the settings in force. `verb` is told to stop by a signal, and then has a moment to end; a second signal
/// ends it at once.
pub fn by_hand(hand: &Hand, verb: impl AsyncFnOnce(HandSettings, CancellationToken) -> Result<u8, Trouble>) -> u8 {
    with_signals(hand, true, verb)
}

/// The same for a verb that is still wanted when the connection to it is lost: in a pod the only terminal is at the other end of one, and
/// it goes on there to its end. On a machine a terminal that goes ends it, unless `nohup` stands in front.
pub fn by_hand_to_the_end(hand: &Hand, verb: impl AsyncFnOnce(HandSettings, CancellationToken) -> Result<u8, Trouble>) -> u8 {
    with_signals(hand, std::env::var_os("KUBERNETES_SERVICE_HOST").is_none(), verb)
}

fn with_signals(hand: &Hand, hangs_up: bool, verb: impl AsyncFnOnce(HandSettings, CancellationToken) -> Result<u8, Trouble>) -> u8 {
    let (settings, warnings) = match load_by_hand(&hand.settings.0) {
        Ok((settings, warnings)) => (settings.with_api(hand.api.clone()), warnings),
        Err(error) => return ended(Err(error.into())),
    };
    if let Err(error) = log::init_by_hand(if hand.debug { u8::MAX } else { hand.verbose }) {
        return ended(Err(Trouble::usage(error.to_string()).because_of(&error)));
    }
    for text in warnings.iter().map(String::as_str).chain(hand.without_effect()) {
        terminal::note(text);
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return ended(Err(Trouble::failed("the runtime cannot be started").because_of(&error))),
    };
    let code = runtime.block_on(until_signalled(hangs_up, |stop| verb(settings, stop)));
    // A reader in a blocking call of a dead disk is not waited for.
    runtime.shutdown_background();
    code
}

/// Waits for an answer, and no longer once a signal has come: for questions that leave nothing half done.
pub async fn unless_stopped<T>(stop: &CancellationToken, asked: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
    tokio::select! {
        answer = asked => answer,
        () = stop.cancelled() => Err(interrupted()),
    }
}

/// A signal has come.
pub fn interrupted() -> Trouble {
    Trouble::failed("interrupted")
}

async fn until_signalled(hangs_up: bool, verb: impl AsyncFnOnce(CancellationToken) -> Result<u8, Trouble>) -> u8 {
    let mut signals = match listen() {
        Ok(signals) => Signals { hangs_up, ..signals },
        Err(error) => return ended(Err(Trouble::failed("signals cannot be listened to").because_of(&error))),
    };
    let stop = CancellationToken::new();
    let running = verb(stop.clone());
    tokio::pin!(running);
    let number = tokio::select! {
        done = &mut running => return ended(done),
        number = signals.next() => number,
    };
    stop.cancel();
    // A terminal that goes may say so twice.
    signals.hangs_up = false;
    tokio::select! {
        done = tokio::time::timeout(GRACE, running) => if let Ok(Err(trouble)) = done { terminal::say(trouble.shown()) },
        again = signals.next() => process::exit(128 + i32::from(again)),
    }
    128 + number
}

/// Parses `--cluster-id`. An empty one would mean no cluster, or any.
pub fn cluster(text: &str) -> Result<ClusterId, &'static str> {
    ClusterId::new(text.trim()).ok_or("it is empty; give the UID of the namespace kube-system, or leave it out")
}

/// Says what went wrong; the exit code.
pub fn ended(done: Result<u8, Trouble>) -> u8 {
    done.unwrap_or_else(|trouble| {
        terminal::complain(&trouble);
        if trouble.code == USAGE {
            terminal::say("  --help shows all settings");
        }
        trouble.code.max(FAILED)
    })
}

/// The signals that end a verb.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    /// None where we were started to ignore it, as by `nohup`.
    hangup: Option<Signal>,
    /// Whether a hangup ends it, or is only taken note of.
    hangs_up: bool,
}

/// From now on a signal does not end the process by itself.
pub fn listen() -> io::Result<Signals> {
    let ignored = fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores_hangup(&status));
    let hangup = if ignored { None } else { Some(signal(SignalKind::hangup())?) };
    Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hangup, hangs_up: true })
}

/// By the `/proc/<pid>/status` of a process: the lowest bit of the mask is the signal 1.
fn ignores_hangup(status: &str) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

impl Signals {
    /// The number of the next one.
    pub async fn next(&mut self) -> u8 {
        let hangup = async {
            match &mut self.hangup {
                Some(signal) => drop(signal.recv().await),
                None => pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => TERMINATE,
            () = hangup, if self.hangs_up => HANGUP,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_hangup_is_ignored_is_read_from_the_status_of_the_process() {
        let status = |mask: &str| format!("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t{mask}\nSigCgt:\t0000000000004001\n");
        assert!(ignores_hangup(&status("0000000000001001")) && !ignores_hangup(&status("0000000000001002")) && !ignores_hangup(""));
    }
}
