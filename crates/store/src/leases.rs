//! Links of sandboxes among the host's own, where user namespaces are forbidden: who has one, in `subnet_allocations`.
//!
//! Called by `sandbox` before such a link is made. Invariant: there is a lease if and only if the removal of the link is owed
//! ([`Action::RemoveLink`]).

use std::net::Ipv4Addr;

use matchlock_model::SandboxId;
use rusqlite::{Connection, Transaction, params};

use crate::{Action, SandboxStore, StoreError, columns, sandboxes, undo};

/// Most leases: an octet that is neither a network's nor its broadcast's.
const MOST: u8 = 254;

/// The addresses on a leased link; the same on all of them, which the octets only number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeasedLink {
    /// The host's end.
    pub gateway: Ipv4Addr,
    /// The guest's.
    pub guest: Ipv4Addr,
    /// Bits of their network's prefix.
    pub prefix: u8,
}

impl SandboxStore {
    /// Lease a link to a sandbox, and write down that it is to be removed. The caller makes it only after this has returned.
    ///
    /// # Errors
    /// [`StoreError::NoLease`] if all are taken, or why it could not be written down; then the link must not be made.
    pub fn lease_link(&mut self, id: &SandboxId, link: LeasedLink) -> Result<(), StoreError> {
        self.database.write(|transaction| {
            sandboxes::must_exist(transaction, id)?;
            let octet = free_octet(transaction)?.ok_or(StoreError::NoLease(MOST))?;
            let LeasedLink { gateway, guest, prefix } = link;
            let network =
                Ipv4Addr::from_bits(gateway.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0));
            transaction.execute(
                "INSERT INTO subnet_allocations (vm_id, octet, gateway_ip, guest_ip, subnet, created_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    id.as_str(),
                    octet,
                    gateway.to_string(),
                    guest.to_string(),
                    format!("{network}/{prefix}"),
                    columns::now()
                ],
            )?;
            Ok(undo::push(transaction, id, &Action::RemoveLink { id: id.clone() })?)
        })
    }
}

/// The lowest that nobody has.
fn free_octet(connection: &Connection) -> rusqlite::Result<Option<u8>> {
    let mut rows = connection.prepare_cached("SELECT octet FROM subnet_allocations")?;
    let taken = rows.query_map((), |row| row.get::<_, u8>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok((1..=MOST).find(|octet| !taken.contains(octet)))
}

/// The sandbox has no such link any more.
pub(crate) fn end(transaction: &Transaction<'_>, id: &SandboxId) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM subnet_allocations WHERE vm_id = ?1", [id.as_str()])?;
    Ok(())
}
