//! `ls` in the pods of all agents: the directory of each node, and the bucket once.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::Run;
use super::stream::{Ended, run};
use crate::cli::terminal::{Paint, complain, print, say};
use crate::cli::trouble::Trouble;
use crate::cli::{DONE, FAILED, PARTLY};
use crate::kubernetes::pods::{Agent, State};

/// One after the other, so that what is said of one is beside what it shows.
pub async fn ls(verb: &Run<'_>, client: &kube::Client, agents: &[Agent]) -> Result<u8, Trouble> {
    let is_table = verb.form == "table";
    let mut lists = Vec::new();
    let (mut codes, mut bucket_seen) = (BTreeSet::new(), false);
    for agent in agents {
        match one(verb, client, agent, bucket_seen).await {
            Ok((code, out, err)) => {
                codes.insert(code);
                bucket_seen |= code == DONE;
                if is_table {
                    print(&format!("{}\n{out}", Paint::of_stdout().bold(format_args!("On the node {}:", agent.node))))?;
                } else if let Ok(list) = serde_json::from_str(&out) {
                    lists.push(list);
                }
                err.lines().for_each(|line| say(format_args!("{}: {line}", agent.node)));
            }
            Err(trouble) => {
                codes.insert(trouble.code);
                complain(&trouble);
            }
        }
    }
    let unwritten = |error: &dyn std::error::Error| Trouble::failed("the list cannot be written").because_of(error);
    match verb.form.as_str() {
        "json" => print(&(serde_json::to_string_pretty(&merged(lists)).map_err(|error| unwritten(&error))? + "\n"))?,
        "yaml" => print(&serde_saphyr::to_string(&merged(lists)).map_err(|error| unwritten(&error))?)?,
        _ => {}
    }
    Ok(together(&codes))
}

async fn one(verb: &Run<'_>, client: &kube::Client, agent: &Agent, bucket_seen: bool) -> Result<(u8, String, String), Trouble> {
    if let State::Down(why) = &agent.state {
        let sentence = format!("the agent on the node {} does not run: {why} (pod {}/{})", agent.node, agent.namespace, agent.pod);
        return Err(Trouble::failed(sentence));
    }
    let mut line: Vec<_> = verb.line.iter().filter(|word| !word.starts_with("--output=")).cloned().collect();
    line.push(format!("--output={}", if verb.form == "table" { "table" } else { "json" }));
    if bucket_seen {
        line.retain(|word| !word.starts_with("--etcd-s3="));
        line.push("--etcd-s3=false".into());
    }
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = Box::pin(run(client, agent, &line, &mut out, &mut err)).await.map_err(|error| verb.not_run(agent, &error))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match ended {
        Ended::Code(code) => Ok((code, text(out), text(err))),
        ended => Err(verb.not_ended(agent, &ended)),
    }
}

/// One list of all, each snapshot file once: records of other nodes may be in several.
fn merged(lists: Vec<Value>) -> Value {
    let mut seen = BTreeSet::new();
    let mut items: Vec<Value> =
        lists.into_iter().flat_map(|mut list| list["items"].as_array_mut().map(std::mem::take).unwrap_or_default()).collect();
    items.retain(|item| seen.insert((item["spec"]["nodeName"].to_string(), item["spec"]["location"].to_string())));
    json!({ "apiVersion": "v1", "kind": "List", "metadata": { "resourceVersion": "" }, "items": items })
}

fn together(codes: &BTreeSet<u8>) -> u8 {
    match codes.first() {
        Some(&code) if codes.len() == 1 => code,
        _ if codes.contains(&DONE) || codes.contains(&PARTLY) => PARTLY,
        _ => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_snapshot_file_is_listed_once() {
        let item = |node: &str, location: &str| json!({"spec": {"nodeName": node, "location": location}});
        let lists = vec![
            json!({"items": [item("a", "file:///x"), item("b", "file:///x")]}),
            json!({"items": [item("b", "file:///x"), item("b", "file:///y")]}),
        ];
        let list = merged(lists);
        assert_eq!(list["items"], json!([item("a", "file:///x"), item("b", "file:///x"), item("b", "file:///y")]));
        assert_eq!((&list["kind"], merged(Vec::new())["items"].as_array().map(Vec::len)), (&json!("List"), Some(0)));
    }

    #[test]
    fn all_that_failed_have_failed_and_some_of_them_are_a_part() {
        let of = |codes: &[u8]| together(&codes.iter().copied().collect());
        assert_eq!([of(&[0, 0]), of(&[0, 1]), of(&[1, 1]), of(&[1, 2]), of(&[3, 1]), of(&[2, 2])], [0, 3, 1, 1, 3, 2]);
    }
}
