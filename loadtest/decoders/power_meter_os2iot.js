// Strøm H5, power meter over HTTP. OS2iot: the posted JSON comes as it was sent.
function decode(payload, metadata) {
  return {
    meter: metadata.name,
    power_kw: payload.meter.power_w / 1000,
    temperature_c: payload.meter.temperature_c,
    node: payload.node,
    seq: payload.seq,
  };
}
