//! How the counters of the machines are declared: one list, so that none is forgotten in print.

/// Declares a struct of `u64` counters and an iterator over their names and values.
macro_rules! counters {
    ($(#[$about:meta])+ pub struct $counters:ident { $($(#[$doc:meta])+ $name:ident,)+ }) => {
        $(#[$about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $counters {
            $($(#[$doc])+ pub $name: u64,)+
        }

        impl std::ops::Add for $counters {
            type Output = Self;

            fn add(self, other: Self) -> Self {
                Self { $($name: self.$name + other.$name,)+ }
            }
        }

        impl $counters {
            /// Every counter with the name that commands and metrics show.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

pub(super) use counters;
