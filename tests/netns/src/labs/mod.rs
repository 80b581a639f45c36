//! Labs of the roles: the real program in small networks, judged packet by packet.

mod bed;
mod main_job;
mod small;
mod stream;

use libtest_mimic::Trial;

pub(crate) use bed::program;

pub(crate) fn trials() -> Vec<Trial> {
    [main_job::trials()].into_iter().flatten().collect()
}
