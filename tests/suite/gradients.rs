//! Gradients reach every parameter.

use bert::*;
use candle_nn::{VarBuilder, VarMap};

use crate::support::*;

#[test]
fn every_parameter_gets_a_gradient() {
    let config = AutoConfig::from_pretrained(&fixture("base")).unwrap();
    let vars = VarMap::new();
    let vb = VarBuilder::from_varmap(&vars, DType::F32, &Device::Cpu);
    let trainable = BertModel::load(vb, &config).unwrap();
    let weights = tensors(&fixture("base/model.safetensors"));
    for (name, var) in vars.data().lock().unwrap().iter() {
        var.set(&weights[name]).unwrap();
    }
    let case = cases(&fixture("base/cases.safetensors")).remove("right").unwrap();
    let output = trainable.forward(&case.input).unwrap();
    // The sum of a LayerNorm's outputs has no gradient, so each element is weighed differently.
    let states = output.last_hidden_state.powf(3.).unwrap().sum_all().unwrap();
    let loss = (states + output.pooler_output.unwrap().sum_all().unwrap()).unwrap();
    let gradients = loss.backward().unwrap();

    let vars = vars.data().lock().unwrap();
    assert_eq!(vars.len(), weights.len());
    for (name, var) in vars.iter() {
        let gradient = gradients.get(var).unwrap_or_else(|| panic!("{name} has no gradient"));
        let norm = values(gradient).iter().map(|g| g * g).sum::<f64>().sqrt();
        // Softmax does not see a constant added to every score, which is all a key bias does.
        if !name.ends_with("attention.self.key.bias") {
            assert!(norm.is_finite() && norm > 1e-3, "{name} has a gradient of norm {norm}");
        }
    }
}
