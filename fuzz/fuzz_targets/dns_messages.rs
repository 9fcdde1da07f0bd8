//! The resolver's two sides: what a guest sends, and what a resolver of the host answers to a good question.
//!
//! The first byte says which, and whether the network is open. Whatever is read, the guest is told something that is a DNS
//! message, and in an intercepted network of addresses only public ones.

#![no_main]

use libfuzzer_sys::fuzz_target;
use matchlock_net::{
    dns::{Reply, Transport, Upstream, Verdict, judge},
    policy::{Mode, Policy},
};

/// Asks for the address of x.com.
const QUESTION: &[u8] = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x01x\x03com\0\0\x01\0\x01";

fuzz_target!(|data: &[u8]| {
    let Some((&choice, message)) = data.split_first() else { return };
    let mode = if choice & 1 == 0 { Mode::Intercept } else { Mode::Open };
    let allowed = vec!["x.com".parse().expect("a target"), "*.x.com".parse().expect("a target")];
    let policy = Policy { mode, allowed, ..Policy::default() };
    if choice & 2 == 0 {
        let transport = if choice & 4 == 0 { Transport::Udp } else { Transport::Tcp };
        match judge(&policy, message, transport, 0) {
            Verdict::Answer(reply) => check(&policy, &reply),
            Verdict::Ask(pending) => check(&policy, &pending.failure()),
            Verdict::Silence => {}
        }
    } else {
        let mut question = QUESTION.to_vec();
        // Types from A to OPT's neighbour; 0 is refused.
        question[20] = choice >> 2;
        let Verdict::Ask(pending) = judge(&policy, &question, Transport::Udp, 0) else { return };
        if let Upstream::Done(reply) = pending.answer(&policy, message) {
            assert!(reply.addresses.iter().all(|address| policy.class(*address).is_public()));
            check(&policy, &reply);
        }
    }
});

fn check(policy: &Policy, reply: &Reply) {
    assert!(reply.message.len() >= 12 && reply.message[2] & 0x80 != 0, "an answer");
    // What the guest is told is an answer, which nobody answers.
    assert!(matches!(judge(policy, &reply.message, Transport::Tcp, 0), Verdict::Silence));
}
