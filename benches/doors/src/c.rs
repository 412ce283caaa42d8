//! The C ABI.

use std::mem::MaybeUninit;
use std::ptr::null;

use capi::{fl_call, fl_call_init, fl_cpu, fl_in, fl_mse, fl_out, fl_status, fl_target};

use super::draw;

pub fn call(n: usize) -> impl FnMut() {
    let (input, target, mut grad, mut value) = (draw(n, 31), draw(n, 17), vec![0.0f32; n], Box::new(0.0f32));
    let mut handle = std::ptr::null_mut();
    let mut call = MaybeUninit::<fl_call>::uninit();
    // SAFETY: to what lives, and is written before it is read.
    let (status, mut call) = unsafe {
        fl_call_init(call.as_mut_ptr());
        (fl_cpu(&raw mut handle), call.assume_init())
    };
    assert_eq!(status, fl_status::FL_OK);
    let all = |x: &[f32]| fl_in { data: x.as_ptr().cast(), len: x.len() };
    (call.input, call.target) = (all(&input), all(&target));
    call.target_kind = fl_target::FL_TARGET_DENSE as _;
    call.value = fl_out { data: (&raw mut *value).cast(), len: 1 };
    call.grad_input = fl_out { data: grad.as_mut_ptr().cast(), len: n };
    move || {
        let _alive = (&input, &target, &grad, &value);
        // SAFETY: what the call points to lives in this closure, and is as long as the call says.
        let status = unsafe { fl_mse(handle, null(), &raw const call) };
        assert_eq!(status, fl_status::FL_OK);
    }
}
