//! From the tables of a policy file to what they mean.

use std::{collections::BTreeMap, str::FromStr, sync::Arc};

use http::Method;
use toml::Spanned;

use super::{
    PolicyFile, Wrong,
    error::{At, MAX_RULE_NAME, Read},
    table::{Document, RuleTable},
};
use crate::{
    policy::{HostPattern, Target},
    rules::{
        MAX_RULES, PathPattern, Rules,
        edit::{HeaderEdits, RequestEdits, ResponseEdits},
        rewrite::Replacement,
        rule::{Action, Rule},
    },
};

type List = Option<Spanned<Vec<Spanned<String>>>>;

pub(super) fn compile(document: &Document) -> Result<PolicyFile, At> {
    let network = &document.network;
    let mut file = PolicyFile {
        allowed: network.allow.iter().map(parsed).collect::<Result<_, _>>()?,
        allow_private: network.allow_private.iter().map(parsed).collect::<Result<_, _>>()?,
        passthrough: Vec::new(),
        rules: Rules::default(),
    };
    if let Some(first_beyond) = document.rule.get(MAX_RULES) {
        return Err(At::span(&first_beyond.span(), Wrong::TooMany));
    }
    for (at, table) in document.rule.iter().enumerate() {
        let rule = rule(at, table)?;
        if file.rules.0.iter().any(|other| other.name == rule.name) {
            return Err(At::span(&table.span(), Wrong::SameName(rule.name.to_string())));
        }
        if rule.action == Action::Allow {
            for host in rule.hosts.iter().flatten() {
                if !file.allowed.contains(host) {
                    file.allowed.push(host.clone());
                }
            }
        }
        file.rules.0.push(Arc::new(rule));
    }
    for text in &network.tls_passthrough {
        let pattern = text.read(|text| passthrough(text, &file.rules))?;
        file.passthrough.push(pattern);
    }
    Ok(file)
}

/// Rules whose patterns overlap in names that neither writes out are found when such a name is connected to
/// ([`Rules::concern`]).
fn passthrough(text: &str, rules: &Rules) -> Result<HostPattern, Wrong> {
    let pattern: HostPattern = text.trim().parse().map_err(|why| Wrong::Pattern { text: text.to_owned(), why })?;
    if matches!(pattern, HostPattern::Network(_)) {
        return Err(Wrong::PassthroughAddress(text.to_owned()));
    }
    let overlap = |target: &Target| match (target.hosts(), &pattern) {
        (HostPattern::Any, _) => false,
        (HostPattern::Name(name), pattern) => pattern.has_name(name),
        (hosts, HostPattern::Name(name)) => hosts.has_name(name),
        (hosts, pattern) => hosts == pattern,
    };
    let looks = |rule: &&Arc<Rule>| rule.looks_at_requests() && rule.hosts.iter().flatten().any(overlap);
    match rules.0.iter().find(looks) {
        Some(rule) => Err(Wrong::PassthroughRule { host: text.to_owned(), rule: rule.name.to_string() }),
        None => Ok(pattern),
    }
}

fn rule(at: usize, table: &Spanned<RuleTable>) -> Result<Rule, At> {
    let (span, given) = (table.span(), table.get_ref());
    let wrong = |wrong| Err(At::span(&span, wrong));
    let Some(action) = given.action.map(Action::from) else { return wrong(Wrong::NoAction) };
    let rule = Rule {
        name: name(at, given.name.as_ref())?,
        hosts: list("hosts", &given.hosts, Target::from_str)?,
        methods: list("methods", &given.methods, method)?,
        paths: list("paths", &given.paths, path)?,
        action,
        max_request_bytes: given.max_request_bytes.map(|size| size.0),
        max_response_bytes: given.max_response_bytes.map(|size| size.0),
        request: request_edits(given)?,
        response: response_edits(given)?,
    };
    match action {
        Action::Block if rule.changes() => return wrong(Wrong::BlockEdits),
        Action::Mutate if !rule.changes() => return wrong(Wrong::Nothing),
        Action::Allow if rule.hosts.is_none() => return wrong(Wrong::NoHosts),
        _ => {}
    }
    if rule.looks_at_requests() {
        for text in given.hosts.iter().flat_map(Spanned::get_ref) {
            text.read(|text| can_be_looked_into(action, text))?;
        }
    }
    Ok(rule)
}

/// Whether requests to these hosts are seen, all of them.
fn can_be_looked_into(action: Action, host: &str) -> Result<(), Wrong> {
    let target: Target = host.parse()?;
    match target.hosts() {
        HostPattern::Network(_) => Err(Wrong::Address(target.to_string())),
        HostPattern::Any if action == Action::Allow => Err(Wrong::EveryHost),
        _ => Ok(()),
    }
}

fn name(at: usize, given: Option<&Spanned<String>>) -> Result<Arc<str>, At> {
    let Some(given) = given else { return Ok(format!("rule {}", at + 1).into()) };
    given.read(|name| {
        let length = name.chars().count();
        let fine = length > 0 && length <= MAX_RULE_NAME && !name.chars().any(char::is_control);
        if fine { Ok(name.as_str().into()) } else { Err(Wrong::Name) }
    })
}

fn list<T, E: Into<Wrong>>(
    key: &'static str,
    given: &List,
    read: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<Vec<T>>, At> {
    let Some(given) = given else { return Ok(None) };
    if given.get_ref().is_empty() {
        return Err(At::span(&given.span(), Wrong::Empty(key)));
    }
    given.get_ref().iter().map(|text| text.read(|text| read(text))).collect::<Result<_, _>>().map(Some)
}

fn parsed<T: FromStr<Err: Into<Wrong>>>(text: &Spanned<String>) -> Result<T, At> {
    text.read(|text| text.parse())
}

fn method(text: &str) -> Result<String, Wrong> {
    let known = Method::from_bytes(text.as_bytes()).is_ok() && !text.contains(|c: char| c.is_ascii_lowercase());
    if known { Ok(text.to_owned()) } else { Err(Wrong::Method(text.to_owned())) }
}

fn path(text: &str) -> Result<PathPattern, Wrong> {
    text.parse().map_err(|why| Wrong::Path { text: text.to_owned(), why })
}

fn request_edits(given: &RuleTable) -> Result<RequestEdits, At> {
    let mut edits = RequestEdits {
        headers: header_edits(&given.set_headers, &given.delete_headers)?,
        set_query: given.set_query.iter().map(|(key, value)| (key.clone(), value.clone())).collect(),
        delete_query: given.delete_query.clone(),
        rewrite_path: None,
    };
    if let Some(path) = &given.rewrite_path {
        path.read(|path| edits.rewrite(path))?;
    }
    Ok(edits)
}

fn response_edits(given: &RuleTable) -> Result<ResponseEdits, At> {
    let replace = given.replace.iter().map(|one| one.read(|one| Replacement::new(&one.find, &one.with)));
    Ok(ResponseEdits {
        headers: header_edits(&given.set_response_headers, &given.delete_response_headers)?,
        replace: replace.collect::<Result<_, _>>()?,
    })
}

fn header_edits(set: &BTreeMap<String, Spanned<String>>, delete: &[Spanned<String>]) -> Result<HeaderEdits, At> {
    let mut edits = HeaderEdits::default();
    for (name, value) in set {
        value.read(|value| edits.set(name, value))?;
    }
    for name in delete {
        name.read(|name| edits.delete(name))?;
    }
    Ok(edits)
}
