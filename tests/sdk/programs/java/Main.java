import com.fasterxml.jackson.databind.ObjectMapper;
import io.dapr.client.DaprClient;
import io.dapr.client.DaprClientBuilder;
import io.dapr.config.Properties;
import io.dapr.config.Property;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;

/** Calls the binding `multi` with Dapr's Java SDK. Prints one JSON object of answers. */
public class Main {
  public static void main(String[] arguments) throws Exception {
    Map<String, Object> out = new LinkedHashMap<>();
    try (DaprClient client = new DaprClientBuilder().build()) {
      client.waitForSidecar(20000).block();
      out.put("ready", true);
      byte[] bytes = {(byte) 0xff, 0, 'h', 'e', 'l', 'l', 'o'};
      byte[] back = client.invokeBinding("multi", "execute", bytes, Map.of(), byte[].class).block();
      out.put("bytes", HexFormat.of().formatHex(back));
      out.put("text", client.invokeBinding("multi", "execute", "text", Map.of(), String.class).block());
      out.put("object", client.invokeBinding("multi", "execute", Map.of("a", 1), Map.of(), Map.class).block());
      back = client.invokeBinding("multi", "execute", new byte[] {'x'}, Map.of("args", "dump,a"), byte[].class).block();
      out.put("metadata", new String(back));
      out.put("large", client.invokeBinding("multi", "execute", new byte[3 << 20], Map.of(), byte[].class).block().length);
      try {
        client.invokeBinding("multi", "execute", new byte[0], Map.of("args", "exit,3"), byte[].class).block();
      } catch (Exception error) {
        out.put("error", error.getMessage());
      }
      out.put("id", client.getMetadata().block().getId());
    }
    try (DaprClient stranger = new DaprClientBuilder().withPropertyOverride(Properties.API_TOKEN, "wrong").build()) {
      stranger.invokeBinding("multi", "execute", new byte[0], Map.of(), byte[].class).block();
    } catch (Exception error) {
      out.put("token", error.getMessage());
    }
    System.out.println(new ObjectMapper().writeValueAsString(out));
    System.exit(0);
  }
}
