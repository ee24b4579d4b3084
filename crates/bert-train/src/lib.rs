//! What turns gradients into learning: [`Gradients`] are taken from losses, summed and clipped;
//! [`AdamW`] moves the parameters against them; [`Schedule`] says how far.
//!
//! ```
//! use bert_train::{AdamW, AdamWOptions, Gradients, Schedule};
//! use candle_core::{DType, Device, Tensor};
//! use candle_nn::{Init, VarMap};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let vars = VarMap::new();
//! let x = vars.get(2, "x", Init::Const(1.), DType::F32, &Device::Cpu)?;
//!
//! let schedule = Schedule::linear(0.1, 5, 50)?;
//! let mut optimizer = AdamW::new(&vars, AdamWOptions::default())?;
//! let mut gradients = Gradients::new(&vars);
//! for step in 0..50 {
//!     let loss = x.sqr()?.sum_all()?;
//!     gradients.accumulate(&loss)?;
//!     gradients.clip_norm(1.)?;
//!     optimizer.step(&mut gradients, schedule.learning_rate(step))?;
//! }
//! assert!(x.sqr()?.sum_all()?.to_scalar::<f32>()? < 0.01);
//! # Ok(())
//! # }
//! ```
//!
//! A batch that does not fit in memory is split: [`Gradients::accumulate`] adds up the gradients of
//! the parts. Gradient checkpointing (recomputing activations in the backward pass) is not here:
//! Candle's backward pass walks the graph of every operation that the forward pass ran, and an
//! operation of one's own may return gradients of its at most three arguments only, not of the
//! parameters below it, so a layer cannot be run again inside of it.

mod adamw;
mod error;
mod gradients;
mod schedule;

pub use adamw::{AdamW, AdamWOptions, ParameterGroup};
pub use error::{Error, Result};
pub use gradients::Gradients;
pub use schedule::Schedule;
