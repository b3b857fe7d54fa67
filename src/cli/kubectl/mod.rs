//! `kubectl etcd-snapshot`: without an etcd or a directory here, a verb runs where they are, in the pod of an agent.
//!
//! In: the command line that was understood. Out: what the same verb says in the pod, and its exit code. The agent's settings hold there, and
//! what is given in addition is meant there, paths too. `choose` says in which pod, `line` what is run, `stream` ties it to this terminal,
//! `all` lists the snapshots of every node.

mod all;
mod choose;
mod line;
mod stream;

use std::io::{self, IsTerminal as _};

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgMatches, Command, FromArgMatches as _};

use self::choose::{Wanted, choose};
use self::stream::Ended;
use super::hand::{ended, listen};
use super::terminal::note;
use super::trouble::Trouble;
use crate::config::{ApiServer, Environment, Flags, HandFlags, HandSettings};
use crate::kubernetes::client::{ClientError, Source, client};
use crate::kubernetes::error::{Cause, Error};
use crate::kubernetes::pods::{Agent, EXEC, State, agents};

/// The verbs that are about a node. `get` needs the bucket alone.
const VERBS: [&str; 5] = ["save", "ls", "delete", "prune", "upload"];

/// The setting whose short form kubectl has.
const NAMESPACE: &str = "namespace";

/// One verb, to be run in a pod.
struct Run<'a> {
    verb: &'a str,
    wanted: Wanted,
    api: ApiServer,
    line: Vec<String>,
    /// It asks before it deletes, if it can.
    asks: bool,
    /// How `ls` shows its list: `table`, `json` or `yaml`.
    form: String,
}

/// The flags that say which pod.
pub fn with_flags(verb: Command) -> Command {
    if !verb.get_arguments().any(|arg| arg.get_id() == NAMESPACE) {
        return verb;
    }
    let verb = verb.mut_arg(NAMESPACE, |namespace| namespace.short('n'));
    if !VERBS.contains(&verb.get_name()) {
        return verb;
    }
    let instance = Arg::new("instance").long("instance").value_name("RELEASE").help_heading("Kubernetes");
    let instance = instance.value_parser(NonEmptyStringValueParser::new());
    verb.arg(instance.help("Of several releases, the one whose agents are meant: their label app.kubernetes.io/instance"))
}

/// Runs the verb in a pod, and answers with its exit code; None where it is meant for this machine.
pub fn in_pod(command: &Command, given: &ArgMatches) -> Option<u8> {
    let (name, given) = given.subcommand()?;
    let verb = command.find_subcommand(name).filter(|_| VERBS.contains(&name))?;
    let flags = HandFlags::from_arg_matches(given).map_or_else(|_| Flags::default(), |flags| flags.0);
    match Environment::new(std::env::vars_os()) {
        Ok(environment) if flags.name_this_machine(&environment) => None,
        Ok(_) => Some(Run::new(verb, given, &flags).map_or_else(|trouble| ended(Err(trouble)), |run| run.here())),
        Err(error) => Some(ended(Err(error.into()))),
    }
}

impl<'a> Run<'a> {
    fn new(verb: &'a Command, given: &ArgMatches, flags: &Flags) -> Result<Self, Trouble> {
        // What is wrong with a flag is said before anybody is asked.
        let (settings, _) = HandSettings::new(flags, &Environment::default(), &[])?;
        let set = |flag| given.try_get_one::<bool>(flag).ok().flatten().copied().unwrap_or_default();
        let text = |flag| {
            given.try_get_raw(flag).ok().flatten().and_then(|mut texts| texts.next()).map(|text| text.to_string_lossy().into_owned())
        };
        let verb_name = verb.get_name();
        let wanted = Wanted {
            namespace: settings.namespace()?,
            instance: text("instance"),
            node: settings.node()?.map(|node| node.to_string()),
            all: verb_name == "ls",
        };
        let asks = matches!(verb_name, "delete" | "prune") && !set("yes") && !set("dry_run");
        let form = text("output").unwrap_or_else(|| "table".into()).to_lowercase();
        let api = ApiServer::from_arg_matches(given).unwrap_or_default();
        Ok(Self { verb: verb_name, wanted, api, line: line::forwarded(verb, given)?, asks, form })
    }

    /// Runs it, until it ends or a signal does.
    fn here(&self) -> u8 {
        let runtime = match tokio::runtime::Runtime::new() {
            Ok(runtime) => runtime,
            Err(error) => return ended(Err(Trouble::failed("the runtime cannot be started").because_of(&error))),
        };
        let code = runtime.block_on(async {
            let mut signals = match listen() {
                Ok(signals) => signals,
                Err(error) => return ended(Err(Trouble::failed("signals cannot be listened to").because_of(&error))),
            };
            tokio::select! {
                done = self.run() => ended(done),
                number = signals.next() => {
                    note(format!("nobody waits for it here any more: {}", self.goes_on()));
                    128 + number
                }
            }
        });
        // A thread that reads the terminal is not waited for.
        runtime.shutdown_background();
        code
    }

    async fn run(&self) -> Result<u8, Trouble> {
        let no_client = |error: ClientError| {
            Trouble::failed("the agents cannot be asked")
                .because_of(&error)
                .because("to work on this machine instead, give --dir or --etcd-endpoint")
        };
        let ApiServer { kubeconfig, context } = &self.api;
        let source = Source::named(kubeconfig.as_deref(), context.as_deref(), |name| std::env::var_os(name)).map_err(no_client)?;
        let client = client(&source, self.wanted.namespace.as_deref()).await.map_err(no_client)?;
        let chosen = choose(self.find(&client).await?, &self.wanted)?;
        let [agent] = chosen.as_slice() else { return Box::pin(all::ls(self, &client, &chosen)).await };
        if agent.state == State::NotReady {
            note(format!("the agent on the node {} is not ready; its /readyz says what it waits for", agent.node));
        }
        let (can_answer, on_terminal) = (io::stdin().is_terminal() && io::stderr().is_terminal(), is_on_terminal());
        if self.asks && can_answer && !on_terminal {
            return Err(Trouble::refused("with the output in a pipe or a file nobody can be asked before something is deleted")
                .because("give --yes, or look first with --dry-run"));
        }
        let closed = |error| Trouble::failed("standard output or standard error cannot be used").because_of(&error);
        let (mut out, mut err) = (stream::ours(io::stdout()).map_err(closed)?, stream::ours(io::stderr()).map_err(closed)?);
        let ended = if on_terminal {
            Box::pin(stream::run_on_terminal(&client, agent, &self.line, &mut out)).await
        } else {
            Box::pin(stream::run(&client, agent, &self.line, &mut out, &mut err)).await
        };
        match ended.map_err(|error| self.not_run(agent, &error))? {
            Ended::Code(code) => Ok(code),
            ended => Err(self.not_ended(agent, &ended)),
        }
    }

    /// Without a namespace in all; and where that is not allowed, in that of the kubeconfig.
    async fn find(&self, client: &kube::Client) -> Result<Vec<Agent>, Trouble> {
        let Wanted { namespace, instance, .. } = &self.wanted;
        let mut found = agents(client, namespace.as_deref(), instance.as_deref()).await;
        let mut place = namespace.clone();
        if place.is_none() && matches!(&found, Err(Error { cause: Cause::Forbidden { .. }, .. })) {
            place = Some(client.default_namespace().to_owned());
            found = agents(client, place.as_deref(), instance.as_deref()).await;
        }
        found.map_err(|error| {
            let trouble = Trouble::failed("the agents cannot be found").because_of(&error);
            if !matches!(error.cause, Cause::Forbidden { .. }) {
                return trouble;
            }
            let unknown = |word: &str| word.to_string();
            let agent = Agent {
                namespace: place.clone().unwrap_or_else(|| unknown("NAMESPACE")),
                pod: unknown("POD"),
                instance: String::new(),
                node: String::new(),
                container: unknown("agent"),
                state: State::NotReady,
            };
            trouble
                .because(format!("the right that is missing: list on pods in the namespace of the agents (tried {})", agent.namespace))
                .because(format!("whoever knows the pod can type: {}", self.typed(&agent)))
        })
    }

    /// Why it was not even begun.
    fn not_run(&self, agent: &Agent, error: &Error) -> Trouble {
        let trouble = Trouble::failed(format!("{} is not run on the node {}", self.verb, agent.node)).because_of(error);
        match error.cause {
            Cause::Forbidden { .. } => trouble
                .because(format!("the rights that are missing: create and get on {EXEC} in the namespace {}", agent.namespace))
                .because(format!("whoever has them can type: {}", self.typed(agent))),
            _ => trouble,
        }
    }

    /// Why nobody knows its exit code.
    fn not_ended(&self, agent: &Agent, ended: &Ended) -> Trouble {
        match ended {
            Ended::NotRun(why) => Trouble::failed(format!("{} is not run on the node {}", self.verb, agent.node)).because(why.trim()),
            Ended::Lost(why) => Trouble::failed(format!("the connection to pod {}/{} was lost", agent.namespace, agent.pod))
                .because(why.trim())
                .because(self.goes_on()),
            Ended::Code(code) => Trouble::failed(format!("it ended with {code}")),
        }
    }

    /// What a person would type instead.
    fn typed(&self, agent: &Agent) -> String {
        line::typed(&self.api, agent, &self.line, is_on_terminal())
    }

    fn goes_on(&self) -> &'static str {
        match self.verb {
            "ls" => "nothing but a list is lost",
            "save" => "a save that has begun goes on in the pod, to its end; kubectl etcd-snapshot ls shows what became of it",
            _ => "what has begun may go on in the pod; kubectl etcd-snapshot ls shows what became of it",
        }
    }
}

/// Whether all of it is a terminal: in a pod there is one for all streams, or none.
fn is_on_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
}
