//! What stands in a policy file: its tables and keys, with the places of their values.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::size::Size;
use crate::rules::rule::Action;

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Document {
    pub(super) network: NetworkTable,
    pub(super) rule: Vec<Spanned<RuleTable>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct NetworkTable {
    pub(super) allow: Vec<Spanned<String>>,
    pub(super) allow_private: Vec<Spanned<String>>,
    pub(super) tls_passthrough: Vec<Spanned<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct RuleTable {
    pub(super) name: Option<Spanned<String>>,
    pub(super) action: Option<ActionWord>,
    pub(super) hosts: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) paths: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) max_request_bytes: Option<Size>,
    pub(super) max_response_bytes: Option<Size>,
    pub(super) set_headers: BTreeMap<String, Spanned<String>>,
    pub(super) delete_headers: Vec<Spanned<String>>,
    pub(super) set_query: BTreeMap<String, String>,
    pub(super) delete_query: Vec<String>,
    pub(super) rewrite_path: Option<Spanned<String>>,
    pub(super) set_response_headers: BTreeMap<String, Spanned<String>>,
    pub(super) delete_response_headers: Vec<Spanned<String>>,
    pub(super) replace: Vec<Spanned<ReplaceTable>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReplaceTable {
    pub(super) find: String,
    pub(super) with: String,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum ActionWord {
    Allow,
    Block,
    Mutate,
}

impl From<ActionWord> for Action {
    fn from(word: ActionWord) -> Self {
        match word {
            ActionWord::Allow => Self::Allow,
            ActionWord::Block => Self::Block,
            ActionWord::Mutate => Self::Mutate,
        }
    }
}
