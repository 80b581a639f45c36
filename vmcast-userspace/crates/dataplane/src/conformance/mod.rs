//! One suite for every plane: cases as data, a model to compare with, random cases.
//!
//! Frames and expectations are built with etherparse, never with the headers and rewrites of
//! `vmcast_common`, so that a mistake there cannot hide itself.
//!
//! A plane is put under test by [`PlaneUnderTest`]; [`cases`] makes the cases for three devices and
//! [`run`] runs one on a fresh plane. [`random_case`] makes inputs for comparing two planes, and
//! [`Model`] says what each of them should have done.

mod case;
mod cases;
mod datagram;
mod device;
mod model;
mod packet;
mod plane;
mod random;
mod run;
mod scene;

#[cfg(test)]
mod tests;
mod wrap;

pub use self::{
    case::{Case, ErrorKind, Expect, Step},
    cases::cases,
    device::{Device, Devices},
    model::Model,
    plane::{Observed, PlaneUnderTest},
    random::{RandomStep, random_case},
    run::{Failure, provoked_by_packets, run},
};
