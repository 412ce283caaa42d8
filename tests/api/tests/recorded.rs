//! The public interface is the one in `fused_loss.txt`: a change of it is seen in review, and said in the CHANGELOG.
//!
//! `FUSED_LOSS_WRITE_API=1 cargo test -p api` writes it anew. It takes Rust 1.95, of whose rustdoc `public-api` knows the format; with
//! another this says that it has been skipped, or fails where `FUSED_LOSS_REQUIRE_API` is 1.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn the_public_interface_is_the_recorded_one() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (root, recorded) = (here.join("../.."), here.join("fused_loss.txt"));
    // Of its own, for the variable has other crates compiled again.
    let target = root.join("target/api");
    let mut rustdoc = Command::new(env!("CARGO"));
    rustdoc.args(["rustdoc", "--lib", "-p", "fused-loss", "--features", "head", "--target-dir"]).arg(&target);
    rustdoc.args(["--", "-Z", "unstable-options", "--output-format", "json", "--cap-lints", "allow"]);
    // JSON is not stable; a stable compiler has it all the same.
    let status = rustdoc.current_dir(&root).env("RUSTC_BOOTSTRAP", "1").env_remove("RUSTDOCFLAGS").status().unwrap();
    assert!(status.success(), "rustdoc: {status}");

    let json = target.join("doc/fused_loss.json");
    let said: serde_json::Value = serde_json::from_reader(std::fs::File::open(&json).unwrap()).unwrap();
    if said["format_version"] != public_api_format() {
        let required = std::env::var("FUSED_LOSS_REQUIRE_API").is_ok_and(|v| v == "1");
        let why = format!("this Rust's rustdoc has format {}, not {}", said["format_version"], public_api_format());
        assert!(!required, "FUSED_LOSS_REQUIRE_API is 1: {why}; take the version of public-api that knows it");
        let _ = writeln!(std::io::stderr(), "\nSKIPPED, the public interface: {why}");
        return;
    }
    let mut builder = public_api::Builder::from_rustdoc_json(json);
    builder = builder.omit_blanket_impls(true).omit_auto_trait_impls(true).sorted(true);
    let now: String = builder.build().unwrap().items().map(|item| format!("{item}\n")).collect();
    if std::env::var_os("FUSED_LOSS_WRITE_API").is_some() {
        std::fs::write(&recorded, &now).unwrap();
    }
    let then = std::fs::read_to_string(&recorded).unwrap_or_default();
    // As sets: in how many `impl` blocks methods are written is nobody's business.
    let lines = |of: &str| of.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (was, is) = (lines(&then), lines(&now));
    let gone = was.difference(&is).map(|line| format!("- {line}\n"));
    let changes: String = gone.chain(is.difference(&was).map(|line| format!("+ {line}\n"))).collect();
    assert!(
        changes.is_empty(),
        "the public interface has changed; if it was meant to, FUSED_LOSS_WRITE_API=1 cargo test -p api writes it anew:\n{changes}"
    );
    assert!(
        now.contains("pub fn fused_loss::Mse::new() -> Self") && now.lines().count() > 500,
        "this is not all of it"
    );
}

/// What this version of `public-api` reads.
fn public_api_format() -> u32 {
    57
}
