//! Every rule that both families have is proved in both: `suite` is compiled once for each.

mod igmp;
mod mld;
