//! The program as another program sees it.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

const PROGRAM: &str = env!("CARGO_BIN_EXE_throughput");

#[test]
fn every_line_is_answered_when_it_is_asked() {
    let mut child = Command::new(PROGRAM)
        .args(["--serve", "--device", "cpu", "--threads", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    let mut read = || -> Value { serde_json::from_str(&from.next().unwrap().unwrap()).unwrap() };
    let hello = read();
    assert_eq!((&hello["program"], &hello["threads"]), (&json!("fused-loss"), &json!(2)));
    assert!(hello["device"].as_str().unwrap().starts_with("CPU"), "{hello}");
    let mut ask = |line: &str| {
        // One at a time: an answer that is kept back would hang this test.
        writeln!(to, "{line}").unwrap();
        read()
    };
    for (request, turns, bytes) in [
        (r#"{"loss":"mse","dtype":"f32","shape":[1024],"turns":3}"#, 3, 3 * 4 * 1024),
        (r#"{"loss":"mse","dtype":"f32","shape":[1024],"turns":1}"#, 1, 3 * 4 * 1024),
        (r#"{"loss":"cross_entropy","dtype":"bf16","shape":[8,100],"turns":2}"#, 2, 2 * 2 * 800 + 8 * 8),
        (r#"{"loss":"dice[sigmoid]","dtype":"f16","shape":[2,3,5],"turns":2}"#, 2, 3 * 2 * 30),
    ] {
        let answer = ask(request);
        for times in ["ns", "copy_ns"] {
            let times = answer[times].as_array().unwrap();
            assert!(times.len() == turns && times.iter().all(Value::is_u64), "{request}: {answer}");
        }
        assert_eq!(answer["bytes"], bytes, "{request}");
    }
    for (request, said) in [
        ("what", "not JSON"),
        (r#"{"dtype":"f32"}"#, "\"loss\""),
        (r#"{"loss":"foo","dtype":"f32","shape":[1]}"#, "'foo'"),
        (r#"{"loss":"mse","dtype":"f64","shape":[1]}"#, "'f64'"),
        (r#"{"loss":"mse","dtype":"f32","shape":[0]}"#, "above zero"),
        (r#"{"loss":"mse","dtype":"f32","shape":[-1]}"#, "\"shape\""),
        (r#"{"loss":"mse","dtype":"f32","shape":[70368744177664]}"#, "GiB"),
        (r#"{"loss":"mse","dtype":"f32","shape":[4],"turns":0}"#, "\"turns\""),
    ] {
        let answer = ask(request);
        assert!(answer["error"].as_str().unwrap().contains(said), "{request}: {answer}");
    }
    if cfg!(target_os = "linux") {
        let answer = ask(r#"{"loss":"mse","dtype":"f32","shape":[65536],"memory":true}"#);
        assert!(answer["peak_bytes"].is_u64(), "{answer}");
    }
    drop(to);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_small_run_writes_table_pictures_json_and_csv() {
    let out = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("throughput");
    let json = out.join("record.json");
    std::fs::create_dir_all(&out).unwrap();
    let run = Command::new(PROGRAM)
        .args([
            "--device",
            "cpu",
            "--loss",
            "cross_entropy,nll",
            "--size",
            "300x10",
            "--seconds",
            "0.001",
            "--csv",
            "-",
            "--dtype",
            "f32,bf16",
        ])
        .args([std::ffi::OsStr::new("--out"), out.as_os_str(), "--json".as_ref(), json.as_os_str()])
        .output()
        .unwrap();
    let [stdout, stderr] = [&run.stdout, &run.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
    assert!(run.status.success(), "{stderr}");
    assert_eq!(stdout.lines().count(), 5, "{stdout}");
    assert!(stderr.contains("of copy") && stderr.contains("300x10"), "{stderr}");
    let record: Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    assert_eq!(record["rows"].as_array().unwrap().len(), 4);
    assert!(std::fs::read_to_string(out.join("shares.svg")).unwrap().contains("nll"));
    assert!(std::fs::read(out.join("shares.png")).unwrap().starts_with(b"\x89PNG"));
}

/// On a GPU, or a pretended one; where there is none, that is said.
#[test]
fn a_gpu_is_measured_as_the_cpu_is() {
    let run =
        |args: &[&str]| Command::new(PROGRAM).args(args).args(["--out", env!("CARGO_TARGET_TMPDIR")]).output().unwrap();
    for (loss, size, launches) in [
        ("mse", "4096", 1),
        ("dice[sigmoid]", "2x3x70", 2),
        ("cross_entropy", "9x100", 1),
        ("cross_entropy[report]", "9x100", 1),
    ] {
        let ran = run(&["--device", "cuda", "--loss", loss, "--size", size, "--seconds", "0.001", "--json", "-"]);
        if fused_loss::Device::cuda(0).is_err() {
            let required = std::env::var("FUSED_LOSS_REQUIRE_GPU").is_ok_and(|v| v == "1");
            assert!(!required && !ran.status.success() && ran.stdout.is_empty());
            continue;
        }
        let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{stderr}");
        let record: Value = serde_json::from_str(&stdout).unwrap();
        let rows = record["rows"].as_array().unwrap();
        assert!(rows.len() == 3 && rows.iter().all(|row| row["launches"] == launches), "{record}");
        assert!(rows.iter().all(|row| row["ns"].as_f64().unwrap() > 0.0), "{record}");
    }
}

#[test]
fn bad_input_is_one_line_and_a_failure() {
    for (args, said) in [
        (&["--loss", "foo"][..], "'foo'"),
        (&["--size", "1x"], "'1x'"),
        (&["--loss", "mse", "--size", "3x4"], "element-wise"),
        (&["--device", "cpu", "--loss", "mse", "--size", "2^45"], "no row"),
    ] {
        let run = Command::new(PROGRAM).args(args).args(["--out", env!("CARGO_TARGET_TMPDIR")]).output().unwrap();
        let stderr = String::from_utf8_lossy(&run.stderr);
        let errors: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("note: ")).collect();
        assert!(!run.status.success() && errors.len() == 1 && errors[0].contains(said), "{args:?}: {stderr}");
    }
}
