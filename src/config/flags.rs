//! The flags of `run` and of the verbs by hand, and their help, made from the table of settings.
//!
//! In: the command line. Out: the text of each flag that was given. Nothing is parsed here, so that a bad value gets the same
//! sentence whatever place it came from.

use std::collections::BTreeMap;
use std::fmt;

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::sources::Environment;
use super::table::{Kind, SETTINGS, Setting, setting};

/// The text of each flag that was given, by the setting's name.
#[derive(Clone, Default)]
pub struct Flags(BTreeMap<&'static str, String>);

impl Flags {
    /// The text of one flag.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether they, or the environment, name an etcd or a directory: what a person means to work on from where they are.
    pub fn name_this_machine(&self, environment: &Environment) -> bool {
        let named = |name| self.get(name).or_else(|| environment.get(setting(name)?)).is_some_and(|text| !text.is_empty());
        ["etcd-endpoint", "etcd-host", "etcd-snapshot-dir", "data-dir"].into_iter().any(named)
    }

    /// With this flag as if it had been given so.
    #[must_use]
    pub fn with(mut self, name: &'static str, text: &str) -> Self {
        self.0.insert(name, text.into());
        self
    }
}

impl FromIterator<(&'static str, String)> for Flags {
    fn from_iter<T: IntoIterator<Item = (&'static str, String)>>(flags: T) -> Self {
        Self(flags.into_iter().collect())
    }
}

/// The names only: a value may be a secret key.
impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

const PRECEDENCE: &str = "A setting is taken from its flag, else from its environment variable, else from the config file, else, if it is one of S3's, from the \
    Secret, else the default holds; each setting by itself. A value that is empty is not set. \
    Durations are written as in Go: 90s, 10m, 1h30m.";

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        flagged().map(arg).fold(command.after_help(PRECEDENCE), Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(flagged().filter_map(|setting| Some((setting.name, matches.get_one::<String>(setting.name)?.clone()))).collect())
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.append(&mut Self::from_arg_matches(matches)?.0);
        Ok(())
    }
}

/// The flags of a verb by hand: those of `run` that are not the agent's alone, under K3s's shorter names as well.
#[derive(Debug, Clone, Default)]
pub struct HandFlags(pub Flags);

/// What only an agent has a use for. The base name is here because K3s has another setting for it by hand: `--name`.
const OF_THE_AGENT: [&str; 7] =
    ["mode", "etcd-snapshot-reconcile-interval", "etcd-snapshot-name", "orphan-grace", "http-listen", "metrics-prefix", "log-format"];

impl HandFlags {
    /// The heading in the help of the setting that this flag is of; None when it is of none.
    pub fn group(flag: &str) -> Option<&'static str> {
        flagged().find(|setting| setting.name == flag).map(|setting| setting.group)
    }

    /// Whether the value of this flag must not be seen.
    pub fn is_secret(flag: &str) -> bool {
        flagged().any(|setting| setting.name == flag && setting.kind == Kind::Secret)
    }
}

impl Args for HandFlags {
    fn augment_args(command: Command) -> Command {
        by_hand().map(hand_arg).fold(command, Command::arg)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for HandFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = by_hand().filter_map(|setting| Some((setting.name, matches.get_one::<String>(setting.name)?.clone())));
        Ok(Self(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.0.append(&mut Self::from_arg_matches(matches)?.0.0);
        Ok(())
    }
}

fn by_hand() -> impl Iterator<Item = &'static Setting> {
    flagged().filter(|setting| !OF_THE_AGENT.contains(&setting.name))
}

fn hand_arg(setting: &'static Setting) -> Arg {
    let arg = arg(setting);
    match setting.name {
        "config" => {
            let default = "config.yaml of K3s or RKE2 in /etc/rancher/<program>, where there is one";
            arg.short('c').long_help(long_help(setting, default))
        }
        "node-name" => arg
            .visible_alias("node")
            .long_help(long_help(setting, "the node whose agent kept state on the directory, else the host's name")),
        "data-dir" => arg.short('d'),
        // K3s's page says that "etcd-" may be left out everywhere.
        "etcd-snapshot-dir" => arg.visible_alias("dir").alias("snapshot-dir"),
        "etcd-snapshot-compress" => arg.visible_alias("snapshot-compress"),
        "etcd-snapshot-retention" => arg.visible_alias("snapshot-retention"),
        name if name.starts_with("etcd-s3") => arg.visible_alias(&name["etcd-".len()..]),
        _ => arg,
    }
}

fn flagged() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| setting.reach.has_flag())
}

fn arg(setting: &'static Setting) -> Arg {
    let arg = Arg::new(setting.name)
        .long(setting.name)
        .value_name(setting.placeholder)
        .help_heading(setting.group)
        .action(ArgAction::Set)
        .help(short_help(setting))
        .long_help(long_help(setting, setting.default.or(setting.default_in_words).unwrap_or("none")));
    if setting.kind == Kind::Switch { arg.num_args(0..=1).require_equals(true).default_missing_value("true") } else { arg }
}

fn short_help(setting: &Setting) -> StyledStr {
    let first = setting.help.lines().next().unwrap_or_default();
    match setting.default {
        Some(default) => format!("{first} [default: {default}]").into(),
        None => first.to_string().into(),
    }
}

fn long_help(setting: &Setting, default: &str) -> StyledStr {
    let help = setting.help.replace('\n', "\n\n");
    let environment = match setting.also_environment {
        _ if !setting.reach.has_environment() => String::new(),
        None => format!("\nEnvironment: {}", setting.environment()),
        Some(other) => format!("\nEnvironment: {}, then {other}", setting.environment()),
    };
    format!("{help}\n\nDefault: {default}{environment}").into()
}

#[cfg(test)]
mod tests {
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &[&str]) -> Result<Flags, clap::Error> {
        let command = Flags::augment_args(Command::new("run").no_binary_name(true));
        Flags::from_arg_matches(&command.try_get_matches_from(line)?)
    }

    #[test]
    fn a_switch_stands_alone_or_has_a_value() {
        for (line, text) in
            [(&["--etcd-s3"][..], "true"), (&["--etcd-s3=false"], "false"), (&["--etcd-s3="], ""), (&["--etcd-s3=maybe"], "maybe")]
        {
            assert_eq!(parse(line).unwrap().get("etcd-s3"), Some(text), "{line:?}");
        }
        let flags = parse(&["--etcd-s3", "--etcd-s3-bucket", "b", "--etcd-s3-insecure"]).unwrap();
        assert_eq!(
            (flags.get("etcd-s3-bucket"), flags.get("etcd-s3-insecure"), flags.get("etcd-s3-folder")),
            (Some("b"), Some("true"), None)
        );
    }

    #[test]
    fn what_is_no_flag_is_refused_without_its_value() {
        let error = parse(&["--etcd-s3-secret-kye=hunter2"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownArgument);
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(parse(&["--etcd-password=x"]).is_err() && parse(&["--etcd-s3-endpoint-ca-name=x"]).is_err());
    }

    #[test]
    fn the_help_names_every_flag_with_its_default_and_its_environment_variable() {
        let help = Flags::augment_args(Command::new("run")).term_width(100).render_long_help().to_string();
        for heading in ["Node and directory:", "S3:", "Kubernetes:", "Observing:"] {
            assert!(help.contains(heading), "{heading}\n{help}");
        }
        for setting in flagged() {
            assert!(help.contains(&format!("--{}", setting.name)), "{}", setting.name);
            assert!(!setting.reach.has_environment() || help.contains(&setting.environment()), "{}", setting.name);
        }
        assert!(help.contains("Default: 10m\n"), "{help}");
        assert!(help.contains("Environment: ETCD_S3_SECRET_KEY, then AWS_SECRET_ACCESS_KEY"), "{help}");
    }

    #[test]
    fn clap_finds_nothing_wrong_with_the_flags() {
        Flags::augment_args(Command::new("run")).debug_assert();
    }

    #[test]
    fn a_verb_by_hand_takes_the_names_that_k3s_has_by_hand() {
        let command = HandFlags::augment_args(Command::new("ls").no_binary_name(true));
        let parse =
            |line: &[&str]| command.clone().try_get_matches_from(line).map(|matches| HandFlags::from_arg_matches(&matches).unwrap().0);
        let short =
            parse(&["--s3", "--s3-bucket=b", "--s3-skip-ssl-verify", "--dir", "/d", "-d", "/data", "-c", "/c", "--snapshot-retention=3"]);
        let long = parse(&[
            "--etcd-s3",
            "--etcd-s3-bucket=b",
            "--etcd-s3-skip-ssl-verify",
            "--etcd-snapshot-dir=/d",
            "--data-dir=/data",
            "--config=/c",
            "--etcd-snapshot-retention=3",
        ]);
        let (short, long) = (short.unwrap().0, long.unwrap().0);
        assert_eq!(short, long);
        assert_eq!(short.len(), 7);
        for agents in ["--mode=observe", "--http-listen=:1", "--etcd-snapshot-name=x"] {
            assert!(parse(&[agents]).is_err(), "{agents}");
        }
        command.debug_assert();
    }

    #[test]
    fn debug_shows_names_only() {
        assert_eq!(format!("{:?}", parse(&["--etcd-s3-secret-key=hunter2"]).unwrap()), "{\"etcd-s3-secret-key\"}");
    }
}
