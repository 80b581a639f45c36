//! Who may send to and receive which groups: the decision, without I/O.
//!
//! Rules are looked at in their order and the first that fits decides; where none fits the default does. An any-source
//! join asks for all sources at once, so it is allowed only by a rule for all of them, and refused by the first rule
//! before that which forbids any: a part of (*,G) cannot be cut out.

mod bandwidth;
mod decide;
mod owner;
mod rule;

#[cfg(test)]
mod tests;

pub use bandwidth::{Bandwidth, Limited};
pub use decide::{Permitted, Reason};
pub use owner::{Owners, Subject};
pub use rule::{Action, Effect, Policy, Rule};
