package heliograph;

import com.google.gson.Gson;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.pusher.client.PusherOptions;
import com.pusher.client.channel.PresenceChannelEventListener;
import com.pusher.client.channel.PusherEvent;
import com.pusher.client.channel.User;
import com.pusher.client.connection.ConnectionEventListener;
import com.pusher.client.connection.ConnectionState;
import com.pusher.client.connection.ConnectionStateChange;
import com.pusher.rest.Pusher;
import com.pusher.rest.data.Event;
import com.pusher.rest.data.PresenceUser;
import com.pusher.rest.data.Result;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Pusher's Java client and Java SDK, driven by a test.
 *
 * <p>Arguments: host, port, app id, key, secret, and the user id of the client. Each line of standard
 * input is an order in JSON. Each line of standard output is an answer to an order ({"result": …}) or
 * something that the client reports ({"client": …}). The end of standard input ends the program.
 */
public final class Driver {
  private static final Gson GSON = new Gson();
  private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

  private final Pusher sdk;
  private final com.pusher.client.Pusher client;

  private Driver(String[] arguments) {
    String host = arguments[0];
    int port = Integer.parseInt(arguments[1]);
    sdk = new Pusher(arguments[2], arguments[3], arguments[4]);
    sdk.setHost(host + ":" + port);
    PusherOptions options =
        new PusherOptions()
            .setHost(host)
            .setWsPort(port)
            .setUseTLS(false)
            .setChannelAuthorizer((channel, socketId) -> authorize(channel, socketId, arguments[5]));
    client = new com.pusher.client.Pusher(arguments[3], options);
  }

  public static void main(String[] arguments) throws IOException {
    Driver driver = new Driver(arguments);
    BufferedReader orders =
        new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = orders.readLine(); line != null; line = orders.readLine()) {
      driver.obey(JsonParser.parseString(line).getAsJsonObject());
    }
    driver.client.disconnect();
    System.exit(0); // the client's threads go on for a while otherwise
  }

  /** Signs as an application's authorization endpoint does: with the SDK. */
  private String authorize(String channel, String socketId, String userId) {
    if (channel.startsWith("presence-")) {
      return sdk.authenticate(socketId, channel, new PresenceUser(userId, Map.of("name", userId)));
    }
    return sdk.authenticate(socketId, channel);
  }

  private void obey(JsonObject order) {
    switch (order.get("order").getAsString()) {
      case "connect" -> client.connect(new ReportingConnection(), ConnectionState.ALL);
      case "subscribe" -> subscribe(text(order, "channel"), text(order, "event"));
      case "unsubscribe" -> client.unsubscribe(text(order, "channel"));
      case "whisper" ->
          client
              .getPrivateChannel(text(order, "channel"))
              .trigger(text(order, "event"), text(order, "data"));
      case "trigger" ->
          answer(
              sdk.trigger(
                  strings(order, "channels"), text(order, "event"), order.get("data"), socket(order)));
      case "batch" -> answer(sdk.trigger(events(order.getAsJsonArray("events"))));
      case "get" -> answer(sdk.get(text(order, "path"), parameters(order)));
      default -> throw new IllegalArgumentException(order.toString());
    }
  }

  private void subscribe(String channel, String event) {
    Reporter reporter = new Reporter();
    if (channel.startsWith("presence-")) {
      client.subscribePresence(channel, reporter, event);
    } else if (channel.startsWith("private-")) {
      client.subscribePrivate(channel, reporter, event);
    } else {
      client.subscribe(channel, reporter, event);
    }
  }

  private String socket(JsonObject order) {
    return order.has("exclude_me") ? client.getConnection().getSocketId() : null;
  }

  private static String text(JsonObject order, String name) {
    return order.get(name).getAsString();
  }

  private static List<String> strings(JsonObject order, String name) {
    List<String> found = new ArrayList<>();
    order.getAsJsonArray(name).forEach(one -> found.add(one.getAsString()));
    return found;
  }

  private static List<Event> events(JsonArray array) {
    List<Event> found = new ArrayList<>();
    for (JsonElement one : array) {
      JsonObject event = one.getAsJsonObject();
      found.add(new Event(text(event, "channel"), text(event, "name"), event.get("data")));
    }
    return found;
  }

  private static Map<String, String> parameters(JsonObject order) {
    Map<String, String> found = new HashMap<>();
    order
        .getAsJsonObject("parameters")
        .entrySet()
        .forEach(one -> found.put(one.getKey(), one.getValue().getAsString()));
    return found;
  }

  private static void answer(Result result) {
    say("result", result.getStatus().toString(), result.getHttpStatus(), result.getMessage());
  }

  private static void report(String kind, Object... details) {
    List<Object> all = new ArrayList<>();
    all.add(kind);
    all.addAll(Arrays.asList(details)); // a user without information has null
    say("client", all.toArray());
  }

  /** Prints one line, whichever thread calls. */
  private static void say(String kind, Object... values) {
    Map<String, Object> message = new HashMap<>();
    message.put(kind, values);
    String line = GSON.toJson(message);
    synchronized (OUT) {
      OUT.println(line);
    }
  }

  private static final class ReportingConnection implements ConnectionEventListener {
    @Override
    public void onConnectionStateChange(ConnectionStateChange change) {
      report("state", change.getCurrentState().toString());
    }

    @Override
    public void onError(String message, String code, Exception problem) {
      report("error", String.valueOf(code), String.valueOf(message));
    }
  }

  private static final class Reporter implements PresenceChannelEventListener {
    @Override
    public void onSubscriptionSucceeded(String channel) {
      report("subscribed", channel);
    }

    @Override
    public void onEvent(PusherEvent event) {
      report("event", event.getChannelName(), event.getEventName(), event.getData());
    }

    @Override
    public void onAuthenticationFailure(String message, Exception problem) {
      report("refused", message);
    }

    @Override
    public void onUsersInformationReceived(String channel, Set<User> users) {
      report("users", channel, users.stream().map(User::getId).sorted().toList());
    }

    @Override
    public void userSubscribed(String channel, User user) {
      report("joined", channel, user.getId(), user.getInfo());
    }

    @Override
    public void userUnsubscribed(String channel, User user) {
      report("left", channel, user.getId());
    }
  }
}
