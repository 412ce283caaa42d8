//! The losses: an options struct, its init function and a function each.

pub(crate) mod classes;
pub(crate) mod elementwise;
pub(crate) mod embeddings;
pub(crate) mod gan;
pub(crate) mod likelihoods;
pub(crate) mod preferences;
pub(crate) mod regions;
pub(crate) mod sums;

/// What every option struct of C needs: that it can grow, and its init function's body.
macro_rules! options {
    ($name:ident { $($field:ident: $default:expr),* $(,)? }) => {
        // SAFETY: numbers, of which any bytes are some; the size comes first.
        unsafe impl $crate::structs::Versioned for $name {
            const NAME: &'static str = stringify!($name);

            fn defaults() -> Self {
                $name { size: size_of::<$name>(), $($field: $default,)* }
            }
        }
    };
}
pub(crate) use options;

/// What a number of C's stands for, which is one of an enum's or is refused.
macro_rules! decode {
    ($what:literal, $code:expr, $name:ident { $($variant:ident => $value:expr),* $(,)? }) => {
        match $code {
            $(x if x == $name::$variant as i32 => Ok($value),)*
            x => Err($crate::call::option(format!(concat!($what, ": {} is no ", stringify!($name)), x))),
        }
    };
}
pub(crate) use decode;
