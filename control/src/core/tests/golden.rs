//! Golden transcripts: what the planners do in situations worth reading. A new transcript is taken with
//! `INSTA_UPDATE=always cargo test -p skep-control golden`; read it before it is committed.

use super::script::run;

macro_rules! golden {
    ($($name:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            let script = include_str!(concat!("scripts/", stringify!($name), ".txt"));
            insta::assert_snapshot!(stringify!($name), run(script));
        }
    )*};
}

golden!(
    create_scale_remove,
    rejected,
    restart_policy,
    restart_window,
    node_down,
    drain_and_pause,
    rolling_update,
    update_failures,
    update_pace,
    start_first,
    placement,
    resources,
    enforcer,
    volumes,
    rebalance,
    allocation,
    refusals,
    assignments,
    history,
    down_for_a_day,
    ingress_addresses,
    ingress_ranks,
    ingress_local,
    global,
    global_update,
    jobs,
    global_jobs,
);
