//! The protocol's rules (`network.interception.rules`), compiled.
//!
//! Called by `sandbox` for what a client of the protocol sends. Their words mean what they meant in the first Matchlock, with the
//! readings of this one: `**` between slashes stands for any number of segments, and a host's `*` does not cross a dot
//! within a name. They only take away and change; what a host gets at all is the allow-list's.
//!
//! What cannot be carried out is refused by the rule's name, with two exceptions that clients rely on: a rule that would do
//! nothing is dropped, and a pattern that is none never fits. Both are told ([`Compiled::ignored`]).

use std::{collections::BTreeMap, fmt, sync::Arc};

use matchlock_model::InterceptionRule;
use thiserror::Error;

use super::{
    EditError, MAX_RULES, PathPattern, Rules,
    edit::{HeaderEdits, RequestEdits, ResponseEdits},
    rewrite::Replacement,
    rule::{Action, Rule},
};
use crate::policy::{HostPattern, Target};

/// What became of rules.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Those that do something.
    pub rules: Rules,
    /// What was passed over.
    pub ignored: Vec<Ignored>,
}

/// A rule, or a part of one, that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The rule's name.
    pub rule: Arc<str>,
    /// What of it, and why.
    pub why: String,
}

/// A rule that cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RpcRuleError {
    /// It has a callback.
    #[error(
        "rule {rule:?}: callback rules need the SDK's server, which is not asked yet; only static rules are carried out"
    )]
    Callback {
        /// Its name.
        rule: Arc<str>,
    },
    /// It is about an address.
    #[error("rule {rule:?}: {host} is no name, and connections to an address are not looked into")]
    Address {
        /// Its name.
        rule: Arc<str>,
        /// The pattern.
        host: HostPattern,
    },
    /// A change that no rule can make.
    #[error("rule {rule:?}: {why}")]
    Edit {
        /// Its name.
        rule: Arc<str>,
        /// Why.
        why: EditError,
    },
    /// Over [`MAX_RULES`].
    #[error("{0} rules are more than the {MAX_RULES} that one sandbox can have")]
    TooMany(usize),
}

/// Compile rules in their order.
///
/// # Errors
/// If a rule asks for what is not carried out.
pub fn compile(rules: &[InterceptionRule]) -> Result<Compiled, RpcRuleError> {
    if rules.len() > MAX_RULES {
        return Err(RpcRuleError::TooMany(rules.len()));
    }
    let mut compiled = Compiled::default();
    for (at, given) in rules.iter().enumerate() {
        let name: Arc<str> = match given.name.trim() {
            "" => format!("rule {}", at + 1).into(),
            name => name.into(),
        };
        let rule = rule(Arc::clone(&name), given, &mut compiled.ignored)?;
        let does_something = rule.action == Action::Block || !rule.request.is_empty() || !rule.response.is_empty();
        if does_something {
            compiled.rules.0.push(Arc::new(rule));
        } else {
            let why = "it neither blocks nor changes anything in its phase".to_owned();
            compiled.ignored.push(Ignored { rule: name, why });
        }
    }
    Ok(compiled)
}

fn rule(name: Arc<str>, given: &InterceptionRule, ignored: &mut Vec<Ignored>) -> Result<Rule, RpcRuleError> {
    if !given.callback_id.trim().is_empty() {
        return Err(RpcRuleError::Callback { rule: name });
    }
    let is = |text: &str, word: &str| text.trim().eq_ignore_ascii_case(word);
    let edit = |why| RpcRuleError::Edit { rule: Arc::clone(&name), why };
    let (mut request, mut response) = (RequestEdits::default(), ResponseEdits::default());
    if is(&given.phase, "after") {
        response = response_edits(given).map_err(edit)?;
    } else {
        request = request_edits(given).map_err(edit)?;
    }
    Ok(Rule {
        hosts: hosts(&name, &given.hosts, ignored)?,
        methods: methods(&given.methods),
        paths: paths(&name, &given.path, ignored),
        // What blocks the response without having seen it may as well block the request.
        action: if is(&given.action, "block") { Action::Block } else { Action::Mutate },
        max_request_bytes: None,
        max_response_bytes: None,
        request,
        response,
        name,
    })
}

/// None given: every host. Those that are no patterns are none.
fn hosts(name: &Arc<str>, given: &[String], ignored: &mut Vec<Ignored>) -> Result<Option<Vec<Target>>, RpcRuleError> {
    let mut hosts = Vec::new();
    for text in given {
        match text.trim().parse() {
            Ok(host @ HostPattern::Network(_)) => return Err(RpcRuleError::Address { rule: Arc::clone(name), host }),
            Ok(host) => hosts.push(Target::any_port(host)),
            Err(why) => ignored.push(Ignored::pattern(name, "host", text, &why)),
        }
    }
    Ok((!given.is_empty()).then_some(hosts))
}

fn methods(given: &[String]) -> Option<Vec<String>> {
    (!given.is_empty()).then(|| given.iter().map(|method| method.trim().to_owned()).collect())
}

fn paths(name: &Arc<str>, given: &str, ignored: &mut Vec<Ignored>) -> Option<Vec<PathPattern>> {
    if given.is_empty() {
        return None;
    }
    let pattern = PathPattern::of_rpc(given).map_err(|why| ignored.push(Ignored::pattern(name, "path", given, &why)));
    Some(pattern.into_iter().collect())
}

fn request_edits(given: &InterceptionRule) -> Result<RequestEdits, EditError> {
    let headers = header_edits(&given.set_headers, &given.delete_headers)?;
    let set = given.set_query.iter().filter(|(key, _)| !is_blank(key));
    let set_query = set.map(|(key, value)| (key.clone(), value.clone())).collect();
    let delete_query = given.delete_query.iter().filter(|key| !is_blank(key)).cloned().collect();
    let mut edits = RequestEdits { headers, set_query, delete_query, rewrite_path: None };
    if !is_blank(&given.rewrite_path) {
        edits.rewrite(given.rewrite_path.trim())?;
    }
    Ok(edits)
}

fn response_edits(given: &InterceptionRule) -> Result<ResponseEdits, EditError> {
    let headers = header_edits(&given.set_response_headers, &given.delete_response_headers)?;
    let replacements = given.body_replacements.iter().filter(|replacement| !replacement.find.is_empty());
    let replace = replacements.map(|one| Replacement::new(&one.find, &one.replace)).collect::<Result<_, _>>()?;
    Ok(ResponseEdits { headers, replace })
}

fn header_edits(set: &BTreeMap<String, String>, delete: &[String]) -> Result<HeaderEdits, EditError> {
    let mut edits = HeaderEdits::default();
    for (name, value) in set.iter().filter(|(name, _)| !is_blank(name)) {
        edits.set(name.trim(), value)?;
    }
    for name in delete.iter().filter(|name| !is_blank(name)) {
        edits.delete(name.trim())?;
    }
    Ok(edits)
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

impl Ignored {
    fn pattern(rule: &Arc<str>, what: &str, text: &str, why: &dyn fmt::Display) -> Self {
        Self { rule: Arc::clone(rule), why: format!("the {what} {text:?} never fits: {why}") }
    }
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {:?}: {}", self.rule, self.why)
    }
}
