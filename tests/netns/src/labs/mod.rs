//! Labs of the roles: the real program in small networks, judged packet by packet.

mod access;
mod admin_down;
mod agent_drops;
mod amt_gateway;
mod amtrelay;
mod applications;
mod bad_input;
mod bad_mld;
mod bare;
mod bed;
mod below;
mod by_distance;
mod by_identity;
mod by_stream;
mod chain;
mod churn;
mod come_and_go;
mod config_errors;
mod convert;
mod discovery;
mod disk_full;
mod dissected;
mod doctor;
mod duplicate;
mod election;
mod engine_change;
mod few_connections;
mod figures;
mod filters;
mod firewalled;
mod flood;
mod follow;
mod foreign;
mod forged;
mod full;
mod grpc;
mod hosts;
mod idle;
mod interfaces;
mod leaves;
mod limits;
mod looped;
mod main_job;
mod many_groups;
mod many_tunnels;
mod mixed;
mod names;
mod native;
mod outer;
mod over_ipv6;
mod oversize;
mod policy;
mod priority;
mod proxy;
mod reassembled;
mod rebind;
mod recorded;
mod redial;
mod registration;
mod relay_moves;
mod restart;
mod secrets;
mod shaken;
mod shared;
mod shared_groups;
mod slow_cable;
mod small;
mod sources;
mod spoofed;
mod stated;
mod stream;
mod tagged;
mod tokens;
mod too_big;
mod ttl;
mod two_admins;
mod two_vmrs;
mod unreachable;
mod untouched;
mod without_admin;

use libtest_mimic::Trial;

pub(crate) use bed::program;

pub(crate) fn trials() -> Vec<Trial> {
    [
        access::trials(),
        agent_drops::trials(),
        looped::trials(),
        main_job::trials(),
        interfaces::trials(),
        native::trials(),
        applications::trials(),
        reassembled::trials(),
        rebind::trials(),
        redial::trials(),
        proxy::trials(),
        below::trials(),
        leaves::trials(),
        limits::trials(),
        election::trials(),
        recorded::trials(),
        registration::trials(),
        relay_moves::trials(),
        restart::trials(),
        admin_down::trials(),
        duplicate::trials(),
        config_errors::trials(),
        untouched::trials(),
        ttl::trials(),
        two_admins::trials(),
        unreachable::trials(),
        come_and_go::trials(),
        dissected::trials(),
        two_vmrs::trials(),
        sources::trials(),
        bad_input::trials(),
        bad_mld::trials(),
        bare::trials(),
        spoofed::trials(),
        churn::trials(),
        many_groups::trials(),
        many_tunnels::trials(),
        few_connections::trials(),
        figures::trials(),
        grpc::trials(),
        filters::trials(),
        firewalled::trials(),
        flood::trials(),
        follow::trials(),
        mixed::trials(),
        foreign::trials(),
        full::trials(),
        names::trials(),
        over_ipv6::trials(),
        oversize::trials(),
        policy::trials(),
        by_identity::trials(),
        by_stream::trials(),
        priority::trials(),
        tagged::trials(),
        tokens::trials(),
        idle::trials(),
        too_big::trials(),
        secrets::trials(),
        shaken::trials(),
        shared::trials(),
        shared_groups::trials(),
        stated::trials(),
        convert::trials(),
        discovery::trials(),
        disk_full::trials(),
        amtrelay::trials(),
        doctor::trials(),
        engine_change::trials(),
        without_admin::trials(),
        by_distance::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
