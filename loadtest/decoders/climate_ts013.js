// Brise C2, indoor climate. Type byte, then its value, big endian. LoRa Alliance TS013, ChirpStack v4, The Things Stack.
function decodeUplink(input) {
  var bytes = input.bytes;
  var data = {};
  var warnings = [];
  for (var i = 0; i < bytes.length; ) {
    var type = bytes[i++];
    switch (type) {
      case 0x01:
        data.temperature_c = int16(bytes, i) / 10;
        i += 2;
        break;
      case 0x02:
        data.humidity_percent = bytes[i++];
        break;
      case 0x07:
        data.battery_v = uint16(bytes, i) / 1000;
        i += 2;
        break;
      case 0x0a:
        data.node = uint32(bytes, i);
        i += 4;
        break;
      case 0x0b:
        data.seq = uint32(bytes, i);
        i += 4;
        break;
      default:
        return { errors: ["unknown type 0x" + type.toString(16) + " at byte " + (i - 1)] };
    }
  }
  if (data.battery_v < 2.9) warnings.push("battery is low");
  return { data: data, warnings: warnings };
}

function uint16(bytes, i) {
  return (bytes[i] << 8) | bytes[i + 1];
}

function int16(bytes, i) {
  var value = uint16(bytes, i);
  return value > 0x7fff ? value - 0x10000 : value;
}

function uint32(bytes, i) {
  return ((bytes[i] << 24) | (bytes[i + 1] << 16) | (bytes[i + 2] << 8) | bytes[i + 3]) >>> 0;
}
