//! Writes the C header of the parameter structs, from the Rust source of them.
//!
//! It goes to `OUT_DIR/fused_loss_params.h`, where the kernels include it from, and holds a
//! `static_assert` on the size of each struct and the offset of each field: whoever changes one side
//! without the other does not get it past a compiler. `tests/params_header.rs` feeds it to one.

use std::fmt::Write;
use std::path::Path;

#[path = "src/params.rs"]
mod params;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/params.rs");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let header = Path::new(&out).join("fused_loss_params.h");
    std::fs::write(&header, c_header()).expect("OUT_DIR can be written");
    println!("cargo::rustc-env=FUSED_LOSS_PARAMS_H={}", header.display());
}

/// The structs of `params.rs` in C.
fn c_header() -> String {
    let mut c = String::from(
        "// Written by build.rs from src/params.rs. Do not edit.\n#pragma once\n\n#include <stddef.h>\n#include <stdint.h>\n\n\
         #ifndef __cplusplus\n#define static_assert _Static_assert\n#endif\n",
    );
    for (name, value) in params::CONSTANTS {
        writeln!(c, "#define FL_{name} {value}").unwrap();
    }
    for (name, size, fields) in params::STRUCTS {
        write!(c, "\ntypedef struct {name} {{\n").unwrap();
        for (rust, field, _) in *fields {
            let c_type = match *rust {
                "f32" => "float",
                "f64" => "double",
                "u32" => "uint32_t",
                "u64" => "uint64_t",
                "i64" => "int64_t",
                other => panic!("params.rs: no C type for {other} of {name}.{field}"),
            };
            writeln!(c, "    {c_type} {field};").unwrap();
        }
        writeln!(c, "}} {name};\nstatic_assert(sizeof({name}) == {size}, \"{name}\");").unwrap();
        for (_, field, offset) in *fields {
            writeln!(c, "static_assert(offsetof({name}, {field}) == {offset}, \"{name}.{field}\");").unwrap();
        }
    }
    c
}
