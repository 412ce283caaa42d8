//! Nothing but its test.
