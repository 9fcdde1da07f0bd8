//! Rules about requests as clients of the protocol send them (`network.interception` of `create`): the words of the wire, not
//! yet checked. `net` compiles them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

/// `network.interception`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Interception {
    /// In their order.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub rules: Vec<InterceptionRule>,
    /// Where the client answers for rules with a [`callback_id`](InterceptionRule::callback_id).
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub callback_socket: String,
}

/// One rule. Clients send empty fields, leave them out, or send `null`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterceptionRule {
    /// What it is called in events.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `after`: it is about the response. Anything else: about the request.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub phase: String,
    /// Patterns of hosts without ports; none: every host.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// In any case; none: every method.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// A pattern of decoded paths; empty: every path.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// `block`, `mutate`. Anything else: `allow`.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub action: String,
    /// Headers of the request, replaced.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "BTreeMap::is_empty")]
    pub set_headers: BTreeMap<String, String>,
    /// Headers of the request, removed.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub delete_headers: Vec<String>,
    /// Keys of the query, replaced.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "BTreeMap::is_empty")]
    pub set_query: BTreeMap<String, String>,
    /// Keys of the query, removed.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub delete_query: Vec<String>,
    /// The path of the request, replaced.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub rewrite_path: String,
    /// Headers of the response, replaced.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "BTreeMap::is_empty")]
    pub set_response_headers: BTreeMap<String, String>,
    /// Headers of the response, removed.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub delete_response_headers: Vec<String>,
    /// Texts of the response's body.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "Vec::is_empty")]
    pub body_replacements: Vec<BodyReplacement>,
    /// Milliseconds that the callback may take.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "is_zero")]
    pub timeout_ms: i64,
    /// Whom the client is asked about it as.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub callback_id: String,
}

/// A text, and what stands in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BodyReplacement {
    /// The text.
    #[serde(deserialize_with = "or_null")]
    pub find: String,
    /// Nothing, if it is left out.
    #[serde(deserialize_with = "or_null", skip_serializing_if = "String::is_empty")]
    pub replace: String,
}

/// `null` is what clients in Go send for what is empty.
fn or_null<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}
