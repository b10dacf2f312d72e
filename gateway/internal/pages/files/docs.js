// Keeps the tenant, user and device of Authorize while the tab is open. Tokens are not stored.
const remembered = ["TenantId", "UserId", "DeviceId"];

const rememberIdentity = {
  statePlugins: {
    auth: {
      wrapActions: {
        authorize: (authorize) => (schemes) => {
          for (const [name, { value }] of Object.entries(schemes)) {
            if (remembered.includes(name)) sessionStorage.setItem(name, value);
          }
          return authorize(schemes);
        },
        logout: (logout) => (names) => {
          names.forEach((name) => sessionStorage.removeItem(name));
          return logout(names);
        },
      },
    },
  },
};

const ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  tryItOutEnabled: true,
  validatorUrl: null,
  plugins: [rememberIdentity],
  onComplete: () => {
    for (const name of remembered) {
      const value = sessionStorage.getItem(name);
      if (value) ui.preauthorizeApiKey(name, value);
    }
  },
});
