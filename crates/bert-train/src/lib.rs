//! Training for Candle models: [`Gradients`] of losses are summed and clipped, [`AdamW`] updates
//! parameters, and a [`Schedule`] gives the learning rate of each step.
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
//! Split a batch that does not fit into memory: with [`Gradients::accumulate_mean`], its parts have the
//! gradients of the whole, if the loss is one mean. There is no gradient checkpointing (recomputing activations in the backward pass): Candle's
//! backward pass needs the full forward graph, and a custom operation can return gradients of at most
//! three arguments and not of parameters inside of it, so it cannot recompute a layer.

mod adamw;
mod error;
mod gradients;
mod schedule;

pub use adamw::{AdamW, AdamWOptions, ParameterGroup};
pub use error::{Error, Result};
pub use gradients::Gradients;
pub use schedule::Schedule;

/// Compiles the README's program as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
