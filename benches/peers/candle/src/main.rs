//! candle as a contender of `compare.py`: JSON lines in, JSON lines out (the protocol is in `../README.md`).
//!
//! ```text
//! candle-peer [cpu|cuda]
//! ```
//!
//! candle has no gradient buffer that a caller could give: `backward` allocates the gradient, and everything between.
//! The loss is multiplied by 0.5 before it, since `backward` takes no gradient from above.

mod losses;

use std::error::Error;
use std::fs;
use std::io::Write;
use std::time::Instant;

use candle_core::{DType, Device, Tensor, Var};
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let cuda = std::env::args().nth(1).as_deref() == Some("cuda");
    let mut stdout = std::io::stdout().lock();
    let device = match if cuda { Device::new_cuda(0) } else { Ok(Device::Cpu) } {
        Ok(device) => device,
        Err(error) => return Ok(writeln!(stdout, "{}", json!({ "error": error.to_string() }))?),
    };
    let hello = json!({
        "program": "candle",
        "version": "0.11.1",
        "device": if cuda { "cuda" } else { "cpu" },
        "threads": rayon::current_num_threads(),
    });
    writeln!(stdout, "{hello}")?;
    let mut kept = None;
    for line in std::io::stdin().lines() {
        let answer = answer(&serde_json::from_str(&line?)?, &device, &mut kept);
        writeln!(stdout, "{}", answer.unwrap_or_else(|error| json!({ "error": error.to_string() })))?;
        stdout.flush()?;
    }
    Ok(())
}

/// The answer to one line; `kept` is the problem that was asked for last.
fn answer(request: &Value, device: &Device, kept: &mut Option<(Value, Problem)>) -> Result<Value> {
    let which = json!([request["loss"], request["dtype"], request["shape"]]);
    if !request["check"].is_null() {
        *kept = None;
        return Problem::new(request, device)?.check();
    }
    if kept.as_ref().is_none_or(|(kept, _)| *kept != which) {
        *kept = None; // frees its memory before more is taken
        let problem = Problem::new(request, device)?;
        for _ in 0..2 {
            problem.turn()?;
        }
        *kept = Some((which, problem));
    }
    let (_, problem) = kept.as_ref().expect("it was put there");
    if request["memory"] == true {
        return Ok(json!({ "peak_bytes": problem.peak_bytes()? }));
    }
    let turns = request["turns"].as_u64().unwrap_or(1);
    let ns = (0..turns).map(|_| problem.turn()).collect::<Result<Vec<u64>>>()?;
    Ok(json!({ "ns": ns }))
}

struct Problem {
    loss: String,
    input: Var,
    target: Tensor,
    device: Device,
}

impl Problem {
    /// Of the numbers that come with the request, or of random ones.
    fn new(request: &Value, device: &Device) -> Result<Self> {
        let loss = request["loss"].as_str().ok_or("no loss")?.to_string();
        let dtype = match request["dtype"].as_str() {
            Some("f32") => DType::F32,
            Some("f16") => DType::F16,
            Some("bf16") => DType::BF16,
            other => return Err(format!("no such dtype: {other:?}").into()),
        };
        let shape: Vec<usize> = serde_json::from_value(request["shape"].clone())?;
        let elements = shape.iter().product();
        let given = |key: &str| serde_json::from_value::<Vec<f32>>(request["check"][key].clone());
        let check = !request["check"].is_null();

        let mut rng = fastrand::Rng::with_seed(7);
        let input = if check { given("input")? } else { (0..elements).map(|_| input(&loss, &mut rng)).collect() };
        let input = Tensor::from_vec(input, &shape[..], device)?.to_dtype(dtype)?;
        let target = if loss == "cross_entropy" {
            let class = |_| rng.u32(..shape[1] as u32);
            let classes: Vec<u32> = match check {
                true => given("target")?.into_iter().map(|t| t as u32).collect(),
                false => (0..shape[0]).map(class).collect(),
            };
            Tensor::new(classes, device)?
        } else if loss.starts_with("gan") {
            Tensor::zeros(1, dtype, device)?
        } else {
            let target =
                if check { given("target")? } else { (0..elements).map(|_| target(&loss, &mut rng)).collect() };
            Tensor::from_vec(target, &shape[..], device)?.to_dtype(dtype)?
        };
        Ok(Problem { loss, input: Var::from_tensor(&input)?, target, device: device.clone() })
    }

    /// Forward and backward: the loss and its gradient.
    fn call(&self) -> Result<(Tensor, Tensor)> {
        let loss = losses::value(&self.loss, self.input.as_tensor(), &self.target)?;
        let mut grads = loss.affine(0.5, 0.0)?.backward()?;
        Ok((loss, grads.remove(&self.input).ok_or("no gradient")?))
    }

    /// Nanoseconds of a call. The gradient is dropped outside.
    fn turn(&self) -> Result<u64> {
        self.device.synchronize()?;
        let started = Instant::now();
        let results = self.call()?;
        self.device.synchronize()?;
        let ns = started.elapsed().as_nanos() as u64;
        drop(results);
        Ok(ns)
    }

    fn check(&self) -> Result<Value> {
        let (loss, grad) = self.call()?;
        let grad: Vec<f32> = grad.flatten_all()?.to_dtype(DType::F32)?.to_vec1()?;
        let value: f32 = loss.to_dtype(DType::F32)?.to_scalar()?;
        // JSON has neither NaN nor infinity.
        let number = |x: f32| if x.is_finite() { json!(x) } else { json!(x.to_string()) };
        Ok(json!({ "value": number(value), "grad": grad.into_iter().map(number).collect::<Vec<_>>() }))
    }

    /// How far the resident set grows during one call, less the gradient.
    fn peak_bytes(&self) -> Result<u64> {
        if !self.device.is_cpu() {
            return Err("candle does not tell how much memory a GPU holds".into());
        }
        // Pages that were freed and kept would hide that they are taken again.
        // SAFETY: it has no preconditions.
        unsafe { libc::malloc_trim(0) };
        let before = status("VmRSS")?;
        fs::write("/proc/self/clear_refs", "5")?; // the high-water mark starts again
        let results = self.call()?;
        let growth = status("VmHWM")?.saturating_sub(before);
        drop(results);
        let grad = (self.input.elem_count() * self.input.dtype().size_in_bytes()) as u64;
        Ok(growth.saturating_sub(grad))
    }
}

/// Bytes of a line of `/proc/self/status`.
fn status(key: &str) -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with(key)).ok_or("no such line")?;
    Ok(1024 * line.split_whitespace().nth(1).ok_or("no number")?.parse::<u64>()?)
}

/// The same kinds of numbers as in `../cases.py`.
fn input(loss: &str, rng: &mut fastrand::Rng) -> f32 {
    match loss {
        "bce" => 0.02 + 0.96 * rng.f32(),
        "kl_div" => -8.0 + 7.98 * rng.f32(),
        _ => -8.0 + 16.0 * rng.f32(),
    }
}

fn target(loss: &str, rng: &mut fastrand::Rng) -> f32 {
    match loss {
        "mse" | "mae" | "huber[delta=1]" => -8.0 + 16.0 * rng.f32(),
        "kl_div" => 0.02 + 0.96 * rng.f32(),
        "hinge[signed]" => f32::from(i8::from(rng.bool()) * 2 - 1),
        _ => f32::from(u8::from(rng.bool())),
    }
}
