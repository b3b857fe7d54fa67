//! Which requests a rule means and what it does to them. Nothing here touches a connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// A request that a proxy has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    /// Without the query, percent-encoded as it was sent.
    pub path: String,
    /// Decoded pairs in the order sent.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

impl Seen {
    pub fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Which requests. Every part that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct On {
    methods: Vec<String>,
    path: Option<String>,
    query: Vec<(String, Option<String>)>,
    no_query: Vec<String>,
    header: Option<String>,
    no_header: Option<String>,
    skip: usize,
    times: Option<usize>,
}

impl On {
    pub fn any() -> Self {
        Self::default()
    }

    pub fn method(method: &str) -> Self {
        Self { methods: vec![method.to_owned()], ..Self::default() }
    }

    /// Whatever changes something.
    pub fn writes() -> Self {
        Self { methods: ["POST", "PUT", "PATCH", "DELETE"].map(str::to_owned).to_vec(), ..Self::default() }
    }

    pub fn get() -> Self {
        Self::method("GET")
    }

    /// S3's `ListObjectsV2`.
    pub fn list_objects() -> Self {
        Self::get().query_is("list-type", "2")
    }

    /// Has this path, in which `*` stands for any characters: `*/etcdsnapshotfiles*` is the records and each of them.
    pub fn path(mut self, pattern: &str) -> Self {
        self.path = Some(pattern.to_owned());
        self
    }

    /// Has this query parameter, with any value.
    pub fn query(mut self, name: &str) -> Self {
        self.query.push((name.to_owned(), None));
        self
    }

    pub fn query_is(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), Some(value.to_owned())));
        self
    }

    pub fn without_query(mut self, name: &str) -> Self {
        self.no_query.push(name.to_owned());
        self
    }

    /// Has this header, named in lower case, with any value.
    pub fn header(mut self, name: &str) -> Self {
        self.header = Some(name.to_owned());
        self
    }

    /// Lacks this header, named in lower case.
    pub fn without_header(mut self, name: &str) -> Self {
        self.no_header = Some(name.to_owned());
        self
    }

    /// A rule begins with the request after this many. Does not matter to a count.
    pub fn skip(mut self, requests: usize) -> Self {
        self.skip = requests;
        self
    }

    /// A rule ends after this many requests. Does not matter to a count.
    pub fn times(mut self, requests: usize) -> Self {
        self.times = Some(requests);
        self
    }

    /// Whether a request is one of these.
    pub fn is_like(&self, seen: &Seen) -> bool {
        (self.methods.is_empty() || self.methods.contains(&seen.method))
            && self.path.as_ref().is_none_or(|pattern| fits(pattern, &seen.path))
            && self.header.as_ref().is_none_or(|name| seen.header(name).is_some())
            && self.no_header.as_ref().is_none_or(|name| seen.header(name).is_none())
            && self.no_query.iter().all(|name| seen.query(name).is_none())
            && self.query.iter().all(|(name, wanted)| match (seen.query(name), wanted) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(value), Some(wanted)) => value == wanted,
            })
    }
}

type Answerer = Arc<dyn Fn(&Seen) -> Reply + Send + Sync>;
type Rewriter = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// What happens to a request.
#[derive(Clone)]
pub enum Fault {
    /// Goes on after this long.
    Delay(Duration),
    /// Goes on when the test says [`super::Handle::release`].
    Hold,
    /// The connection is closed; the server never hears of the request.
    Drop,
    /// The server hears of the request and gets this many bytes of its body, then the connection is closed.
    CutRequest(u64),
    /// The server does as asked, then the connection is closed without its answer.
    LoseAnswer,
    /// The server does as asked, and its answer goes on when the test says [`super::Handle::release`].
    HoldAnswer,
    /// Never answered; the server never hears of it.
    BlackHole,
    /// Answered by the proxy; the server never hears of it.
    Reply(Reply),
    /// Answered by the proxy with what this makes of the request.
    Answer(Answerer),
    /// The connection is closed after this many bytes of the answer's body.
    CutBody(u64),
    /// The answer's body passes through this.
    Rewrite(Rewriter),
    /// The answer shows this header instead of its own.
    Header(&'static str, &'static str),
    /// Its body goes on at so many bytes a second and stands still after so many; the rest goes on when the test says
    /// [`super::Handle::release`]. A body in chunks goes on as it comes.
    Trickle(u64, u64),
    /// The object or objects of an S3 server's answer were last changed so much earlier.
    Older(Duration),
    /// The server gets the request without this header. One that was signed is taken only by a server that asks for no signature.
    Unheard(&'static str),
    /// The server gets the request with this query parameter more. As above.
    Asking(&'static str, String),
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::Reply(Reply::status(status))
    }

    /// An error as S3 words it.
    pub fn s3(status: u16, code: &str) -> Self {
        let body = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>by the test</Message></Error>");
        Self::Reply(Reply::status(status).header("Content-Type", "application/xml").body(body))
    }

    /// An error as an API server words it: a `Status` with this reason, such as `Conflict`.
    pub fn kubernetes(status: u16, reason: &str) -> Self {
        let body = serde_json::json!({
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": "by the test", "reason": reason, "code": status,
        });
        Self::Reply(Reply::status(status).header("Content-Type", "application/json").body(body.to_string()))
    }

    /// A watch that begins and at once says this: 410 `Expired` is what a server that has forgotten a resourceVersion says.
    pub fn watch_error(status: u16, reason: &str) -> Self {
        let error = serde_json::json!({ "type": "ERROR", "object": {
            "apiVersion": "v1", "kind": "Status", "metadata": {}, "status": "Failure",
            "message": "by the test", "reason": reason, "code": status,
        } });
        Self::Reply(Reply::status(200).header("Content-Type", "application/json").body(format!("{error}\n")))
    }

    pub fn answer(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::Answer(Arc::new(answer))
    }

    pub fn rewrite(rewrite: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self::Rewrite(Arc::new(rewrite))
    }
}

/// An answer of the proxy's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Vec::new() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

pub(super) struct Rule {
    on: On,
    fault: Fault,
    hold: watch::Receiver<bool>,
    matched: usize,
    hits: usize,
}

impl Rule {
    pub(super) fn new(on: On, fault: Fault, hold: watch::Receiver<bool>) -> Self {
        Self { on, fault, hold, matched: 0, hits: 0 }
    }

    fn takes(&mut self, seen: &Seen) -> bool {
        if !self.on.is_like(seen) || self.on.times.is_some_and(|times| self.hits >= times) {
            return false;
        }
        self.matched += 1;
        let takes = self.matched > self.on.skip;
        self.hits += usize::from(takes);
        takes
    }
}

/// All that a proxy knows: its rules in order, and the requests so far.
#[derive(Default)]
pub(super) struct Rules {
    last_id: u64,
    by_age: Vec<(u64, Rule)>,
    pub(super) seen: Vec<Seen>,
}

impl Rules {
    pub(super) fn add(&mut self, rule: Rule) -> u64 {
        self.last_id += 1;
        self.by_age.push((self.last_id, rule));
        self.last_id
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.by_age.retain(|(other, _)| *other != id);
    }

    pub(super) fn clear(&mut self) {
        self.by_age.clear();
    }

    pub(super) fn hits(&self, id: u64) -> usize {
        self.by_age.iter().find(|(other, _)| *other == id).map_or(0, |(_, rule)| rule.hits)
    }

    /// Notes a request and says what is to happen to it, with what ends a hold.
    pub(super) fn take(&mut self, seen: Seen) -> Option<(Fault, watch::Receiver<bool>)> {
        let rule = self
            .by_age
            .iter_mut()
            .map(|(_, rule)| rule)
            .find_map(|rule| rule.takes(&seen).then(|| (rule.fault.clone(), rule.hold.clone())));
        self.seen.push(seen);
        rule
    }
}

/// Whether a text fits a pattern in which `*` stands for any characters.
fn fits(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(method: &str, path: &str, query: &[(&str, &str)]) -> Seen {
        let query = query.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Seen { method: method.to_owned(), path: path.to_owned(), query, headers: Vec::new() }
    }

    fn rule(on: On, fault: Fault) -> Rule {
        Rule::new(on, fault, watch::channel(true).1)
    }

    #[test]
    fn a_pattern_fits_the_whole_path() {
        for (pattern, path, expected) in [
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a*", "/ab/c", true),
            ("*/etcdsnapshotfiles", "/apis/k3s.cattle.io/v1/etcdsnapshotfiles", true),
            ("*/etcdsnapshotfiles", "/apis/k3s.cattle.io/v1/etcdsnapshotfiles/x", false),
            ("/b*/.metadata/*", "/bucket/folder/.metadata/one", true),
            ("/b*/.metadata/*", "/bucket/folder/one", false),
            ("*", "", true),
        ] {
            assert_eq!(fits(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_request_is_like_what_every_part_says() {
        assert!(On::any().without_header("x").is_like(&seen("GET", "/", &[])) && !On::any().header("x").is_like(&seen("GET", "/", &[])));
        let second_page = On::list_objects().query("continuation-token").without_query("delimiter");
        assert!(second_page.is_like(&seen("GET", "/b", &[("list-type", "2"), ("continuation-token", "x")])));
        assert!(!second_page.is_like(&seen("GET", "/b", &[("list-type", "2")])));
        assert!(On::writes().path("*/etcdsnapshotfiles*").is_like(&seen("PATCH", "/apis/k3s.cattle.io/v1/etcdsnapshotfiles/x", &[])));
        assert!(!On::writes().is_like(&seen("GET", "/", &[])));
        assert!(!second_page.is_like(&seen("HEAD", "/b", &[("list-type", "2"), ("continuation-token", "x")])));
        assert!(!second_page.is_like(&seen("GET", "/b", &[("list-type", "2"), ("continuation-token", "x"), ("delimiter", "/")])));
    }

    #[test]
    fn a_rule_begins_after_those_skipped_and_ends_when_used_up() {
        let mut rules = Rules::default();
        let id = rules.add(rule(On::method("HEAD").skip(1).times(2), Fault::status(403)));
        rules.add(rule(On::any().times(1), Fault::Drop));
        let mut took = |method| match rules.take(seen(method, "/", &[])).map(|(fault, _)| fault) {
            Some(Fault::Reply(reply)) => reply.status,
            Some(_) => 1,
            None => 0,
        };
        assert_eq!([took("HEAD"), took("HEAD"), took("HEAD"), took("HEAD"), took("GET")], [1, 403, 403, 0, 0]);
        assert_eq!((rules.hits(id), rules.seen.len()), (2, 5));
    }
}
