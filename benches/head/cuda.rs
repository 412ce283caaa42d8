//! The head on a GPU beside its parts: three products of the whole by cuBLAS, and the cross-entropy between them, in place. By turns, timed
//! by events; medians.

use fused_loss::cudarc::driver::sys::CUevent_flags;
use fused_loss::cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, ValidAsZeroBits};
use fused_loss::head::{CudaLinearGrads, LinearCrossEntropy};
use fused_loss::launch::{self, Dtype, Matrix, Product};
use fused_loss::{CrossEntropy, Cuda, Element, Reduction};
use half::{bf16, f16};

/// Tokens, hidden numbers, classes.
type Shape = (usize, usize, usize);

pub fn main() {
    let words: Vec<String> = std::env::args().collect();
    let test = words.iter().any(|word| word == "--test");
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(if test { 1 } else { 10 });
    let cuda = match Cuda::device(0) {
        Ok(cuda) => cuda,
        Err(why) => {
            let required = std::env::var("FUSED_LOSS_REQUIRE_GPU").is_ok_and(|v| v == "1");
            assert!(!required, "FUSED_LOSS_REQUIRE_GPU is 1: {why}");
            return println!("no head on a GPU: {why}");
        }
    };
    println!("{}, medians of {rounds} rounds", cuda.stream().context().name().unwrap_or_default());
    println!(
        "{:<7} {:<20} {:>9} {:>9} {:>9} {:>9}  head at a budget (ms, and its share of the parts)",
        "dtype", "shape", "products", "loss", "parts", "TFLOP/s"
    );
    let shapes: &[Shape] = if test {
        &[(40, 16, 300)]
    } else {
        &[(8192, 4096, 128256), (8192, 2048, 151936), (4096, 4096, 32000), (8192, 768, 50257)]
    };
    let budgets: &[usize] = if test { &[1, 2] } else { &[256, 512, 1024, 2048] };
    for &shape in shapes {
        bench::<bf16>(&cuda, "bf16", shape, budgets, rounds, false);
        if shape == shapes[0] {
            bench::<f16>(&cuda, "f16", shape, budgets, rounds, false);
            bench::<f32>(&cuda, "tf32", shape, budgets, rounds, true);
            bench::<f32>(&cuda, "f32", shape, budgets, rounds.min(3), false);
        }
    }
}

fn bench<T: Element + DeviceRepr + ValidAsZeroBits>(
    cuda: &Cuda,
    name: &str,
    shape: Shape,
    budgets: &[usize],
    rounds: usize,
    tf32: bool,
) {
    let ((tokens, hidden, classes), stream) = (shape, cuda.stream());
    let mut random = fastrand::Rng::with_seed(5);
    let table: Vec<f32> = (0..65_521).map(|_| random.f32() - 0.5).collect();
    let numbers =
        |n: usize, size: f32| -> Vec<T> { table.iter().cycle().take(n).map(|x| T::from_f32(x * size)).collect() };
    let input = stream.clone_htod(&numbers(tokens * hidden, 2.0)).expect("there is memory");
    let weight = stream.clone_htod(&numbers(classes * hidden, 0.2)).expect("there is memory");
    let target: Vec<i64> = (0..tokens as i64).map(|i| i * 31 % classes as i64).collect();
    let target = stream.clone_htod(&target).expect("there is memory");
    let mut grad_input = stream.alloc_zeros::<T>(tokens * hidden).expect("there is memory");
    let mut grad_weight = stream.alloc_zeros::<f32>(classes * hidden).expect("there is memory");
    let mut logits = stream.alloc_zeros::<T>(tokens * classes).expect("there is memory");
    let mut values = [(); 2].map(|()| stream.alloc_zeros::<f32>(1).expect("there is memory"));
    let factors = stream.clone_htod(&[1.0f32, 0.0]).expect("there is memory");
    let (one, zero) = (address(cuda, &factors), address(cuda, &factors) + 4);
    let dtype = Dtype::of::<T>();
    let matrix = |address, dtype, pitch| Matrix { address, dtype, pitch };
    let [x, w, z] = [
        matrix(address(cuda, &input), dtype, hidden),
        matrix(address(cuda, &weight), dtype, hidden),
        matrix(address_mut(cuda, &mut logits), dtype, classes),
    ];
    let dx = matrix(address_mut(cuda, &mut grad_input), dtype, hidden);
    let dw = matrix(address_mut(cuda, &mut grad_weight), Dtype::of::<f32>(), hidden);
    let product = |size, out, (a, a_transposed), (b, b_transposed)| {
        let product = Product { size, out, a, a_transposed, b, b_transposed, alpha: one, beta: zero, tf32 };
        // SAFETY: the matrices are the buffers above, of these sizes.
        unsafe { launch::product(cuda, &product) }.expect("cuBLAS multiplies");
    };
    let event = || stream.context().new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).expect("there are events");
    let record = |event: &fused_loss::cudarc::driver::CudaEvent| event.record(stream).expect("events are recorded");
    let mut times = vec![Vec::new(); 2 + budgets.len()];
    // The first is for warmth.
    for round in 0..=rounds {
        let at = [(); 5].map(|()| event());
        record(&at[0]);
        product([tokens, classes, hidden], z, (x, false), (w, true));
        record(&at[1]);
        let on = CrossEntropy::new().on(cuda);
        on.forward_backward_in_place(&mut logits, &target, (tokens, classes), Reduction::Mean, &mut values[0])
            .expect("a loss");
        record(&at[2]);
        product([classes, hidden, tokens], dw, (z, true), (x, false));
        product([tokens, hidden, classes], dx, (z, false), (w, false));
        record(&at[3]);
        let mut between = |of: usize, from: usize, to: usize| {
            times[of].push(at[from].elapsed_ms(&at[to]).expect("events have times"));
        };
        between(1, 1, 2);
        let ms =
            at[0].elapsed_ms(&at[1]).expect("events have times") + at[2].elapsed_ms(&at[3]).expect("events have times");
        times[0].push(ms);
        for (b, budget) in budgets.iter().enumerate() {
            let [start, end] = [(); 2].map(|()| event());
            let head = LinearCrossEntropy::new(CrossEntropy::new()).budget(budget << 20);
            let grads = CudaLinearGrads {
                input: Some((&mut grad_input).into()),
                weight: Some((&mut grad_weight).into()),
                bias: None,
            };
            let call = head.on(cuda).call(&input, &weight, &target, shape);
            let call = if tf32 { call.allow_tf32() } else { call };
            if round == 0 {
                // So that the memory of this budget is there.
                head.on(cuda)
                    .call(&input, &weight, &target, shape)
                    .forward(Reduction::Mean, &mut values[1])
                    .expect("a head");
            }
            record(&start);
            call.forward_backward(Reduction::Mean, &mut values[1], grads).expect("a head");
            record(&end);
            times[2 + b].push(start.elapsed_ms(&end).expect("events have times"));
        }
    }
    cuda.check().expect("classes are classes");
    let [apart, head] = values.each_ref().map(|value| stream.clone_dtoh(value).expect("numbers come back")[0]);
    let off = (apart - head).abs() / apart.abs();
    assert!(off <= if size_of::<T>() == 4 && !tf32 { 1e-5 } else { 3e-3 }, "{apart}, by the head {head}");
    let medians: Vec<f32> = times
        .iter_mut()
        .map(|of| {
            of.remove(0);
            of.sort_by(f32::total_cmp);
            of[of.len() / 2]
        })
        .collect();
    let (products, loss) = (medians[0], medians[1]);
    let flop = 6.0 * tokens as f64 * hidden as f64 * classes as f64;
    let heads: Vec<String> = (budgets.iter().zip(&medians[2..]))
        .map(|(mib, ms)| format!("{mib} MiB: {ms:.2} ({:.2})", ms / (products + loss)))
        .collect();
    println!(
        "{name:<7} {:<20} {products:>9.2} {loss:>9.2} {:>9.2} {:>9.0}  {}",
        format!("{tokens}x{hidden}x{classes}"),
        products + loss,
        flop / f64::from(products) / 1e9,
        heads.join("  "),
    );
}

fn address<T>(cuda: &Cuda, x: &CudaSlice<T>) -> u64 {
    x.device_ptr(cuda.stream()).0
}

fn address_mut<T>(cuda: &Cuda, x: &mut CudaSlice<T>) -> u64 {
    x.device_ptr_mut(cuda.stream()).0
}
