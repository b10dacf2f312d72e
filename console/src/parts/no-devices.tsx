/** How to register the first devices of a tenant. */

import { command, post } from "../commands";
import { may } from "../session";
import { Terminal } from "./terminal";

const request = { devices: [{ device_id: "pump-1", labels: { model: "x200" } }], update_mask: "labels" };

export function NoDevices({ isDevicesPage = false }) {
    const mayRegister = may("FleetService.UpdateDevices");
    return (
        <div class="card empty">
            <p>This tenant has no devices yet.</p>
            <p class="quiet">
                {mayRegister ? (
                    <>
                        Register or import devices{" "}
                        {isDevicesPage ? "above" : <a href="/console/devices">on the Devices page</a>}, or in
                        a terminal, for example pump-1 with a label:
                    </>
                ) : (
                    "An admin can register some."
                )}
            </p>
            {mayRegister && (
                <Terminal
                    open
                    command={command(
                        ["devices", "label", "pump-1", "model=x200"],
                        ["--allow-missing"],
                        post("/customer/fleet/devices:update", { ...request, allow_missing: true }),
                    )}
                />
            )}
        </div>
    );
}
