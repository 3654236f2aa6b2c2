use burn::optim::AdamWConfig;
use serde_json::Value;
use wgpu_optim::OptimizerConfig;
use wgpu_optim::rules::AdamW;

use crate::Error;

/// Burn's configuration of AdamW as this engine's, clipping included. Its defaults differ from
/// PyTorch's: `epsilon` is 1e-5 and `weight_decay` 1e-4.
///
/// # Errors
/// `cautious_weight_decay` has no counterpart.
pub fn adamw(config: &AdamWConfig) -> Result<OptimizerConfig, Error> {
    // Its fields are private; what it saves is not.
    let saved = serde_json::to_value(config).map_err(|e| Error::Option(e.to_string()))?;
    let number = |value: &Value, what: &str| {
        // Burn computes in f32: the same number is its f32, not its shortest decimal.
        let number = value.as_f64().map(|x| f64::from(x as f32));
        number.ok_or_else(|| Error::Option(format!("AdamWConfig: {what} is {value}, expected a number")))
    };
    let option = |key: &str| number(&saved[key], key);
    if saved["cautious_weight_decay"] == true {
        return Err(Error::Option("AdamWConfig: cautious_weight_decay has no counterpart".to_owned()));
    }
    let mut ours = OptimizerConfig::new(AdamW {
        betas: [option("beta_1")?, option("beta_2")?],
        eps: option("epsilon")?,
        weight_decay: option("weight_decay")?,
        amsgrad: saved["amsgrad"] == true,
        ..AdamW::default()
    });
    match &saved["grad_clipping"] {
        Value::Null => {}
        clipping if !clipping["Value"].is_null() => {
            ours.gradient.clip_value = Some(number(&clipping["Value"], "grad_clipping")?);
        }
        // Of each tensor by itself: Burn has no other.
        clipping => ours.gradient.clip_tensor_norm = Some(number(&clipping["Norm"], "grad_clipping")?),
    }
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use burn::grad_clipping::GradientClippingConfig;

    use super::*;

    #[test]
    fn every_option_is_carried_over() {
        let burns = AdamWConfig::new().with_beta_1(0.5).with_epsilon(0.25).with_weight_decay(0.125).with_amsgrad(true);
        let clipped = burns.with_grad_clipping(Some(GradientClippingConfig::Norm(2.0)));
        let ours = adamw(&clipped).unwrap();
        let options: Vec<_> = ours.rule.options();
        let text = format!("{options:?}");
        for value in ["0.5", "0.25", "0.125", "true"] {
            assert!(text.contains(value), "{text}");
        }
        assert_eq!(ours.gradient.clip_tensor_norm, Some(2.0));
        assert!(adamw(&AdamWConfig::new().with_cautious_weight_decay(true)).is_err());
    }
}
