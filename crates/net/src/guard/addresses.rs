//! The addresses that a name would be resolved to for the guest, for whoever explains: the guest is not told, so what it may
//! connect to stays as it was.

use std::io;

use super::Guard;
use crate::{
    dns::{RecordType, Reply, Transport, Verdict, encoded, judge},
    policy::{Denied, ExplainError, Host, Name, Resolved, destination},
};

impl Guard {
    /// The addresses of the host in a URL or `host:port`, as [`explain`](crate::policy::explain) wants them; none if its name is
    /// not allowed, for then nobody is asked.
    ///
    /// # Errors
    /// If the text is no destination.
    pub async fn addresses(&self, text: &str) -> Result<Resolved, ExplainError> {
        Ok(match destination(text.trim())?.0 {
            Host::Name(name) if self.policy().name(&name).is_allowed() => self.look_up(&name).await,
            Host::Name(_) | Host::Address(_) => Ok(Vec::new()),
        })
    }

    /// All addresses of an allowed name, those included that are kept from guests; if there are none, why, if nobody says.
    async fn look_up(&self, name: &Name) -> Resolved {
        let (v4, v6) = tokio::join!(self.records(name, RecordType::A), self.records(name, RecordType::AAAA));
        let (mut found, mut failed) = (Vec::new(), None);
        for records in [v4, v6] {
            match records {
                Ok(Reply { addresses, refused, .. }) => {
                    found.extend(addresses);
                    found.extend(refused.into_iter().filter_map(|denied| match denied {
                        Denied::Address { address, .. } => Some(address),
                        _ => None,
                    }));
                }
                Err(e) => failed = Some(format!("{name} is not resolved: {e}")),
            }
        }
        failed.filter(|_| found.is_empty()).map_or(Ok(found), Err)
    }

    async fn records(&self, name: &Name, kind: RecordType) -> io::Result<Reply> {
        let [high, low, ..] = getrandom::u32()?.to_ne_bytes();
        match judge(&self.policy(), &query(name, kind), Transport::Tcp, u16::from_be_bytes([high, low])) {
            Verdict::Answer(reply) => Ok(reply),
            Verdict::Ask(pending) => self.ask(&pending).await,
            Verdict::Silence => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// A message as a guest would send it (RFC 1035, section 4.1): one question, recursion desired.
fn query(name: &Name, kind: RecordType) -> Vec<u8> {
    [b"\0\0\x01\0\0\x01\0\0\0\0\0\0", &*encoded(name, kind)].concat()
}
