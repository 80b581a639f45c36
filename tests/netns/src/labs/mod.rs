//! Labs of the roles: the real program in small networks, judged packet by packet.

mod bed;
mod main_job;
mod native;
mod restart;
mod small;
mod sources;
mod stream;
mod ttl;

use libtest_mimic::Trial;

pub(crate) use bed::program;

pub(crate) fn trials() -> Vec<Trial> {
    [main_job::trials(), native::trials(), restart::trials(), sources::trials(), ttl::trials()].into_iter().flatten().collect()
}
