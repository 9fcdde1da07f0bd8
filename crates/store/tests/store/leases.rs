//! Links among the host's own: leased, bounded, and taken away with what belongs to them.

use matchlock_netlink::{HostLink, Netlink, Nft};
use matchlock_store::{LeasedLink, Reconciled, SandboxStore, StoreError};
use matchlock_testkit::{run, tool};
use rusqlite::Connection;

use crate::support::{another_process, dead, home, id, register, register_for, told_home};

const LINK: LeasedLink = LeasedLink {
    gateway: std::net::Ipv4Addr::new(192, 168, 100, 1),
    guest: std::net::Ipv4Addr::new(192, 168, 100, 2),
    prefix: 30,
};

#[test]
fn the_lowest_free_number_is_leased_and_there_are_254() {
    let (_home, layout) = home();
    let mut store = SandboxStore::open(&layout).unwrap();
    for number in 1..=255 {
        register(&mut store, &id(number), &[]).unwrap();
    }
    for number in 1..=254 {
        store.lease_link(&id(number), LINK).unwrap();
    }
    let refused = store.lease_link(&id(255), LINK).unwrap_err();
    assert!(matches!(refused, StoreError::NoLease(254)), "{refused}");
    assert!(store.owed(&id(255)).unwrap().is_empty(), "what was not leased is not owed");
    let connection = Connection::open(layout.database()).unwrap();
    let row = |id: &str| -> (u8, String) {
        let sql =
            "SELECT octet, gateway_ip || ' ' || guest_ip || ' ' || subnet FROM subnet_allocations WHERE vm_id = ?1";
        connection.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    assert_eq!(row("vm-00000007"), (7, "192.168.100.1 192.168.100.2 192.168.100.0/30".to_owned()));
    // As the documented query does for those that are gone.
    connection.execute("DELETE FROM subnet_allocations WHERE vm_id = 'vm-00000007'", ()).unwrap();
    store.lease_link(&id(255), LINK).unwrap();
    assert_eq!(row("vm-000000ff").0, 7);
}

fn ip(arguments: &[&str]) -> String {
    run(tool("ip", "iproute2").unwrap().args(arguments)).unwrap()
}

/// All that concerns links in this network namespace.
fn traces() -> String {
    let rules = run(tool("nft", "nftables").unwrap().args(["list", "ruleset"])).unwrap();
    [ip(&["-o", "link"]), ip(&["rule"]), ip(&["route", "show", "table", "all"]), rules].concat()
}

#[test]
fn a_link_is_removed_with_its_rules_routes_and_lease() {
    let name = "leases::a_link_is_removed_with_its_rules_routes_and_lease";
    let Some(layout) = told_home() else {
        // In a network that concerns nobody else.
        let (home, _) = home();
        let test = another_process(name, home.path());
        let mut alone = tool("unshare", "util-linux").unwrap();
        alone.args(if rustix::process::geteuid().is_root() { "-n" } else { "-rn" }.split(' '));
        alone.arg(test.get_program()).args(test.get_args()).env("TEST_HOME", home.path());
        assert!(alone.status().unwrap().success());
        return;
    };
    ip(&["link", "set", "lo", "up"]);
    let clean = traces();
    let mut store = SandboxStore::open(&layout).unwrap();
    register_for(&mut store, &id(1), &dead(), &[]).unwrap();
    store.lease_link(&id(1), LINK).unwrap();
    // As it is made, but for what it does; a pair of links stands for a TAP.
    let link = HostLink::of(1);
    ip(&["link", "add", link.name(), "type", "veth", "peer", "name", "guest"]);
    link.add_routes(&Netlink::open().unwrap()).unwrap();
    let table = link.table();
    Nft::start(&format!("table netdev {table} {{}}\ntable inet {table} {{}}\n")).unwrap().done().unwrap();
    assert_ne!(traces(), clean);

    let reports = store.reconcile_all(false).unwrap();
    let [report] = &reports[..] else { panic!("{reports:?}") };
    let Reconciled::Released(released) = &report.reconciled else { panic!("{report:?}") };
    assert!(released.failed.is_empty(), "{released:?}");
    assert_eq!(released.cleaned, ["link_remove:fc-00000001"]);
    assert_eq!(traces(), clean);
    let connection = Connection::open(layout.database()).unwrap();
    let leases: u32 = connection.query_row("SELECT count(*) FROM subnet_allocations", (), |row| row.get(0)).unwrap();
    assert_eq!(leases, 0);
}
