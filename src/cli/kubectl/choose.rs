//! In which pod a verb is run. Pure.
//!
//! In: the agents that were found, and which were asked for. Out: those to run it in, or one sentence that says why in none.

use std::collections::BTreeSet;

use crate::cli::trouble::Trouble;
use crate::kubernetes::pods::{Agent, State, labels};

/// Which agents were asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Their namespace.
    pub namespace: Option<String>,
    /// Their release.
    pub instance: Option<String>,
    /// The node of the one.
    pub node: Option<String>,
    /// Without a node: all, and not the only one.
    pub all: bool,
}

/// Those to run it in, by the names of their nodes; never none.
pub fn choose(found: Vec<Agent>, wanted: &Wanted) -> Result<Vec<Agent>, Trouble> {
    if found.is_empty() {
        let place = wanted.namespace.as_ref().map_or("any namespace".into(), |name| format!("the namespace {name}"));
        let labels = labels(wanted.instance.as_deref());
        return Err(Trouble::failed(format!("there is no agent: no pod in {place} has the labels {labels}"))
            .because("to work on this machine instead, give --dir or --etcd-endpoint"));
    }
    let releases: BTreeSet<_> = found.iter().map(|agent| format!("{}/{}", agent.namespace, agent.instance)).collect();
    if releases.len() > 1 {
        let sentence = format!("there are agents of several releases: {}", listed(releases));
        return Err(Trouble::usage(sentence).because("choose one with --namespace or --instance"));
    }
    let nodes: BTreeSet<_> = found.iter().map(|agent| agent.node.clone()).collect();
    let mut chosen = match &wanted.node {
        Some(node) => {
            let of_it: Vec<_> = found.into_iter().filter(|agent| agent.node == *node).collect();
            if of_it.is_empty() {
                return Err(Trouble::usage(format!("there is no agent on the node {node}; there are agents on {}", listed(nodes))));
            }
            of_it
        }
        None if wanted.all || nodes.len() == 1 => found,
        None => return Err(Trouble::usage(format!("on which node? There are agents on {}: choose one with --node", listed(nodes)))),
    };
    // While a pod is replaced there are two of one node: the better one counts.
    let down = |agent: &Agent| match agent.state {
        State::Ready => 0,
        State::NotReady => 1,
        State::Down(_) => 2,
    };
    chosen.sort_by(|a, b| (&a.node, down(a), &a.pod).cmp(&(&b.node, down(b), &b.pod)));
    chosen.dedup_by(|later, earlier| later.node == earlier.node);
    if let ([Agent { state: State::Down(why), node, namespace, pod, .. }], false) = (chosen.as_slice(), wanted.all && wanted.node.is_none())
    {
        return Err(Trouble::failed(format!("the agent on the node {node} does not run: {why} (pod {namespace}/{pod})")));
    }
    Ok(chosen)
}

fn listed(names: BTreeSet<String>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(namespace: &str, node: &str, state: State) -> Agent {
        let pod = format!("eso-{node}");
        Agent { namespace: namespace.into(), pod, instance: "eso".into(), node: node.into(), container: "agent".into(), state }
    }

    fn two() -> Vec<Agent> {
        vec![agent("backup", "b", State::Ready), agent("backup", "a", State::NotReady)]
    }

    fn on(node: &str) -> Wanted {
        Wanted { node: Some(node.into()), ..Wanted::default() }
    }

    fn nodes(chosen: Result<Vec<Agent>, Trouble>) -> Result<Vec<String>, String> {
        chosen.map(|agents| agents.into_iter().map(|agent| agent.node).collect()).map_err(|trouble| trouble.shown())
    }

    #[test]
    fn the_agent_of_the_node_or_the_only_one_or_all() {
        let all = Wanted { all: true, ..Wanted::default() };
        assert_eq!(nodes(choose(two(), &on("a"))), Ok(vec!["a".into()]));
        assert_eq!(nodes(choose(two()[..1].to_vec(), &Wanted::default())), Ok(vec!["b".into()]));
        assert_eq!(nodes(choose(two(), &all)), Ok(vec!["a".into(), "b".into()]));
        let sentence = "on which node? There are agents on a, b: choose one with --node";
        assert_eq!(nodes(choose(two(), &Wanted::default())), Err(sentence.into()));
    }

    #[test]
    fn of_two_pods_on_a_node_the_better_one() {
        let mut found = vec![agent("backup", "a", State::Down("Pending".into())), agent("backup", "a", State::Ready)];
        found[1].pod = "z".into();
        let chosen = choose(found, &on("a")).unwrap();
        assert_eq!((chosen.len(), chosen[0].pod.as_str()), (1, "z"));
    }

    #[test]
    fn why_in_none_is_one_sentence() {
        let several = vec![agent("backup", "a", State::Ready), agent("kube-system", "a", State::Ready)];
        let trouble = choose(several, &on("a")).unwrap_err();
        assert_eq!((trouble.code, trouble.sentence.as_str()), (2, "there are agents of several releases: backup/eso, kube-system/eso"));
        let trouble = choose(two(), &on("c")).unwrap_err();
        assert_eq!((trouble.code, trouble.sentence.as_str()), (2, "there is no agent on the node c; there are agents on a, b"));
        let down = vec![agent("backup", "a", State::Down("CrashLoopBackOff".into()))];
        let trouble = choose(down, &Wanted::default()).unwrap_err();
        let sentence = "the agent on the node a does not run: CrashLoopBackOff (pod backup/eso-a)";
        assert_eq!((trouble.code, trouble.sentence.as_str()), (1, sentence));
        let wanted = Wanted { namespace: Some("x".into()), instance: Some("eso".into()), ..Wanted::default() };
        let sentence = choose(Vec::new(), &wanted).unwrap_err().sentence;
        assert!(sentence.contains("in the namespace x") && sentence.contains("app.kubernetes.io/instance=eso"), "{sentence}");
    }
}
