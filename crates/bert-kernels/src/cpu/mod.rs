//! Kernels for the CPU in F32.
//!
//! [`linear`], [`attention`] and [`layer_norm`] take tensors, compute on their [`slices`], and return
//! `None` if an operation has to use its definition instead.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod gemm;
pub(crate) mod layer_norm;
pub(crate) mod linear;
mod math;
mod rows;
mod scratch;
mod simd;
mod slices;
pub(crate) mod team;
#[cfg(test)]
mod testing;
