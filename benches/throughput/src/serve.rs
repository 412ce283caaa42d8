//! Answers another program's requests, a line of JSON each: comparisons with other libraries drive it, so that both are measured in
//! turn, on the same machine in the same minute.
//!
//! ```text
//! {"program":"fused-loss","version":"0.1.0","device":"CPU (AVX-512, 2 threads)","threads":2}
//! > {"loss":"mse","dtype":"f32","shape":[16777216],"turns":3}
//! {"ns":[5361873,5372012,5359120],"copy_ns":[4402113,4399871,4410120],"bytes":201326592}
//! > {"loss":"mse","dtype":"f32","shape":[16777216],"memory":true}
//! {"peak_bytes":0}
//! > {"loss":"what"}
//! {"error":"..."}
//! ```

use std::io::{self, BufRead, Write};

use fused_loss::Device;
use serde_json::{Value, json};

use crate::options;
use crate::rows;
use crate::timing::cases::Case;
use crate::timing::cases::draw::Dims;
use crate::timing::{self, Dtype, Timed, list};

/// The problem that was asked for last: the next request is often about the same.
type Last<'a> = Option<((&'a str, Dims, Dtype), Box<dyn Timed + 'a>)>;

/// Until the end of input.
pub fn serve(device: &Device, table: &[Case], input: impl BufRead, mut out: impl Write) -> io::Result<()> {
    let mut last: Last<'_> = None;
    let mut say = |value: Value| {
        writeln!(out, "{value}")?;
        out.flush()
    };
    say(json!({
        "program": "fused-loss", "version": env!("CARGO_PKG_VERSION"), "device": device.to_string(),
        "threads": rayon::current_num_threads(),
    }))?;
    for line in input.lines() {
        let line = line?;
        if !line.trim().is_empty() {
            say(answer(device, table, &line, &mut last).unwrap_or_else(|error| json!({ "error": error })))?;
        }
    }
    Ok(())
}

fn answer<'a>(device: &'a Device, table: &'a [Case], line: &str, last: &mut Last<'a>) -> Result<Value, String> {
    let request: Value = serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
    let text = |name: &str| request[name].as_str().ok_or(format!("\"{name}\" must be a string"));
    let case = rows::named(table, text("loss")?)?;
    let dtype = options::dtype(text("dtype")?)?;
    let shape = request["shape"].as_array().ok_or("\"shape\" must be a list of numbers")?;
    let shape: Option<Vec<usize>> = shape.iter().map(|n| n.as_u64().and_then(|n| n.try_into().ok())).collect();
    let dims = list::fit(case, &shape.ok_or("\"shape\" must be a list of whole numbers")?)?;
    let memory = request["memory"].as_bool().unwrap_or(false);
    let turns = match &request["turns"] {
        Value::Null => 1,
        turns => turns.as_u64().filter(|n| (1..=1_000_000).contains(n)).ok_or("\"turns\" must be from 1 to 1000000")?,
    };

    let key = (case.name.as_str(), dims, dtype);
    if last.as_ref().is_none_or(|(of, _)| *of != key) {
        // Its buffers first, or there might not be room.
        *last = None;
        let mut timed = timing::open(device, case, dims, dtype)?;
        timed.turns(1)?;
        *last = Some((key, timed));
    }
    let (_, timed) = last.as_mut().expect("it has just been opened");
    if memory {
        return Ok(json!({ "peak_bytes": timed.memory()? }));
    }
    let turns = timed.turns(turns as usize)?;
    let ns: Vec<u64> = turns.iter().map(|turn| turn.loss.as_nanos() as u64).collect();
    let copy_ns: Vec<u64> = turns.iter().map(|turn| turn.copy.as_nanos() as u64).collect();
    Ok(json!({ "ns": ns, "copy_ns": copy_ns, "bytes": list::fewest_bytes(case, dims, dtype.bytes()) }))
}
