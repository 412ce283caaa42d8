//! cuBLAS, as far as heads need it: loaded when the first of them runs.
//!
//! By hand and not by cudarc, whose loader panics where there is no cuBLAS or one of another major version than its bindings, and would
//! link it in a program that has cudarc link CUDA. What is used here has been the same since cuBLAS 11.

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use libloading::Library;

use super::foreign::{Status, functions};
use super::request::Dtype;
use crate::error::{Error, Result};

type Handle = *mut c_void;

functions! {
    create cublasCreate_v2(*mut Handle);
    destroy cublasDestroy_v2(Handle);
    set_stream cublasSetStream_v2(Handle, *mut c_void);
    set_workspace cublasSetWorkspace_v2(Handle, *mut c_void, usize);
    set_pointer_mode cublasSetPointerMode_v2(Handle, c_int);
    // Handle, transposed or not, m, n, k, alpha, A with its type and leading dimension, B, beta, C, how to compute, by which algorithm.
    gemm cublasGemmEx(
        Handle, c_int, c_int, c_int, c_int, c_int, *const c_void,
        *const c_void, c_int, c_int, *const c_void, c_int, c_int, *const c_void,
        *mut c_void, c_int, c_int, c_int, c_int,
    );
}

const ON_DEVICE: c_int = 1;
const R_32F: c_int = 0;
const R_16F: c_int = 2;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const COMPUTE_32F_FAST_TF32: c_int = 77;
const ANY_ALGORITHM: c_int = -1;

/// The library's names, newest first.
const NAMES: &[&str] = if cfg!(windows) {
    &["cublas64_13.dll", "cublas64_12.dll", "cublas64_11.dll"]
} else {
    &["libcublas.so.13", "libcublas.so.12", "libcublas.so.11", "libcublas.so"]
};

impl Functions {
    fn get() -> Result<&'static Functions> {
        static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
        if let Some(functions) = FUNCTIONS.get() {
            return Ok(functions);
        }
        // SAFETY: opening cuBLAS runs its initialisers, which is what using it means.
        let library = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok()).ok_or(Error::NoCublas)?;
        // SAFETY: the signatures are those of cuBLAS's documentation.
        let functions = unsafe { Functions::of(&library) }.map_err(|_| Error::NoCublas)?;
        // It stays loaded.
        std::mem::forget(library);
        Ok(FUNCTIONS.get_or_init(|| functions))
    }
}

/// A cuBLAS handle of the context that was current when it was made.
pub(super) struct Blas {
    functions: &'static Functions,
    handle: Handle,
}

// SAFETY: any thread may use a handle, if no other does meanwhile; whoever has one locks it.
unsafe impl Send for Blas {}
// SAFETY: as above.
unsafe impl Sync for Blas {}

/// A matrix in device memory, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix {
    /// Where it is.
    pub address: u64,
    /// Of its elements.
    pub dtype: Dtype,
    /// Elements from one row to the next.
    pub pitch: usize,
}

/// `out = alpha a b + beta out`.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Rows and columns of `out`, and what is summed over.
    pub size: [usize; 3],
    /// The result.
    pub out: Matrix,
    /// The first factor.
    pub a: Matrix,
    /// `a` is the transpose of what is in memory.
    pub a_transposed: bool,
    /// The second factor.
    pub b: Matrix,
    /// The same of `b`.
    pub b_transposed: bool,
    /// Addresses of one f32 each.
    pub alpha: u64,
    /// See `alpha`.
    pub beta: u64,
    /// Factors of f32 may be rounded to TF32.
    pub tf32: bool,
}

impl Blas {
    /// Of the current context.
    pub(super) fn new() -> Result<Self> {
        let functions = Functions::get()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: it writes a handle; a context is current.
        check("cuBLAS, a handle", unsafe { (functions.create)(&raw mut handle) })?;
        Ok(Blas { functions, handle })
    }

    /// What comes now is on this stream, and has this workspace, which cuBLAS wants on a border of 256 bytes.
    ///
    /// # Safety
    /// The stream is of the handle's context, as is the memory; both outlive what is enqueued.
    pub(super) unsafe fn bind(&self, stream: *mut c_void, workspace: u64, bytes: u64) -> Result<()> {
        let Blas { functions: f, handle } = *self;
        // SAFETY: the caller's promise.
        unsafe {
            check("cuBLAS, the stream", (f.set_stream)(handle, stream))?;
            check("cuBLAS, the workspace", (f.set_workspace)(handle, workspace as *mut c_void, bytes as usize))?;
            check("cuBLAS, where factors are", (f.set_pointer_mode)(handle, ON_DEVICE))
        }
    }

    /// Enqueues a product.
    ///
    /// # Safety
    /// The addresses are of memory as large as that, which the stream may use.
    pub(super) unsafe fn product(&self, p: &Product) -> Result<()> {
        let [rows, columns, inner] = p.size.map(int);
        let [pitch_out, pitch_a, pitch_b] = [p.out, p.a, p.b].map(|m| int(m.pitch.max(1)));
        let kind = |m: Matrix| match m.dtype.name {
            "f16" => R_16F,
            "bf16" => R_16BF,
            _ => R_32F,
        };
        let how = if p.tf32 { COMPUTE_32F_FAST_TF32 } else { COMPUTE_32F };
        let at = |address: u64| address as *const c_void;
        // cuBLAS counts along columns: to it our matrices are their transposes, and `out^T = b^T a^T`.
        // SAFETY: the caller's promise.
        let status = unsafe {
            (self.functions.gemm)(
                self.handle,
                p.b_transposed.into(),
                p.a_transposed.into(),
                columns,
                rows,
                inner,
                at(p.alpha),
                at(p.b.address),
                kind(p.b),
                pitch_b,
                at(p.a.address),
                kind(p.a),
                pitch_a,
                at(p.beta),
                p.out.address as *mut c_void,
                kind(p.out),
                pitch_out,
                how,
                ANY_ALGORITHM,
            )
        };
        check("cuBLAS, a product", status)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: it was made here, and nobody else has it.
        let _ = unsafe { (self.functions.destroy)(self.handle) };
    }
}

/// Sizes are below 2^31, as has been checked.
fn int(n: usize) -> c_int {
    c_int::try_from(n).expect("below 2^31")
}

fn check(what: &'static str, status: Status) -> Result<()> {
    let name = match status {
        0 => return Ok(()),
        1 => "CUBLAS_STATUS_NOT_INITIALIZED",
        3 => "CUBLAS_STATUS_ALLOC_FAILED",
        7 => "CUBLAS_STATUS_INVALID_VALUE",
        8 => "CUBLAS_STATUS_ARCH_MISMATCH",
        11 => "CUBLAS_STATUS_MAPPING_ERROR",
        13 => "CUBLAS_STATUS_EXECUTION_FAILED",
        14 => "CUBLAS_STATUS_INTERNAL_ERROR",
        15 => "CUBLAS_STATUS_NOT_SUPPORTED",
        other => return Err(Error::Cuda { what, name: format!("cuBLAS status {other}") }),
    };
    Err(Error::Cuda { what, name: name.into() })
}
