//! The header that build.rs writes for the kernels.

use std::process::Command;

#[test]
fn the_c_header_of_the_parameter_structs_compiles_in_c() {
    let source = std::env::temp_dir().join(format!("fused_loss_params_{}.c", std::process::id()));
    std::fs::write(&source, format!("#include \"{}\"\n", env!("FUSED_LOSS_PARAMS_H"))).unwrap();
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let run = Command::new(&cc).args(["-std=c11", "-Wall", "-Werror", "-fsyntax-only"]).arg(&source).output();
    std::fs::remove_file(&source).unwrap();
    let run = run.unwrap_or_else(|e| panic!("the C compiler {cc} (or the one named by CC): {e}"));
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
